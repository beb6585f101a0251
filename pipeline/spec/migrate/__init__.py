"""Documents of earlier versions and of earlier systems, carried over to the schemas of today without loss."""
