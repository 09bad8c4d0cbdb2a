"""The methods that FOSTER is compared with, one file each."""
