"""Reports: pages and pictures from results."""
