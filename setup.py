"""Packaging is described in pyproject.toml; this file is where the C++/CUDA extension will be added."""

from setuptools import setup

setup()
