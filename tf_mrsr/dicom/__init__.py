"""DICOM series as volumes, and volumes as derived series. Commands and library come here through ``tf_mrsr.volume``.

``files`` opens single files within bounds, ``frames`` says what one slice states about itself, ``series`` finds and
chooses series, ``stack`` checks that slices form a grid, ``pixels`` decodes, ``reading`` and ``writing`` do the rest.
"""
