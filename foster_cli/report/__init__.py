"""A bundle made visible: one HTML page, the same figures as PNG and SVG, and views of a run that goes on.

bundle, its evaluation, its data --gather--> content.Report --html--> one page
                                                           \\-figures--> PNG and SVG
console events --live--> a terminal panel     --tensorboard--> event files
"""
