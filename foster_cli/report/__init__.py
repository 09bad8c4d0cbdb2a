"""Shows a bundle as one HTML page, its figures as PNG and SVG, and a running distillation as live views.

bundle, its evaluation, its data --gather--> content.Report --html--> one page
                                                           \\-figures--> PNG and SVG
console events --live--> a terminal panel     --tensorboard--> event files
"""
