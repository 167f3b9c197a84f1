"""The steps: each makes one artefact from settings and other artefacts."""
