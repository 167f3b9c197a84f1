"""Material inside the package to try everything without a download."""
