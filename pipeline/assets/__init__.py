"""Renders and exports of assets: turntables, contact sheets, grids, and files for other programs."""
