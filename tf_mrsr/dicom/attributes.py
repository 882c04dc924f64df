"""Which elements of a source's header a derived slice keeps. Whatever is not named here is dropped."""

PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
)
SERIES_AND_SPACE = (
    "Modality",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "Laterality",
    "ImageLaterality",
    "PatientPosition",
    "ProtocolName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "AcquisitionNumber",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "BurnedInAnnotation",
    "PhotometricInterpretation",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
# How the image was measured: what a synthesised image must not claim.
MR_ACQUISITION = (
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "SequenceName",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "EchoTrainLength",
    "EchoNumbers",
    "FlipAngle",
    "NumberOfAverages",
    "ImagingFrequency",
    "ImagedNucleus",
    "MagneticFieldStrength",
)
CT_ACQUISITION = ("KVP", "ConvolutionKernel", "ScanOptions", "ExposureTime", "XRayTubeCurrent", "Exposure")
# The scanner goes into the list of equipment that contributed; the derived series was made by another.
SCANNER = (
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
KEPT = (*PATIENT_AND_STUDY, *SERIES_AND_SPACE)
OF_SOURCE = (
    *KEPT,
    *MR_ACQUISITION,
    *CT_ACQUISITION,
    *SCANNER,
    "ImageType",
    "SeriesNumber",
    "WindowCenter",
    "WindowWidth",
    "RescaleType",
    "SharedFunctionalGroupsSequence",
)
# Where enhanced files state it: element of FrameAnatomySequence, ours.
ENHANCED_ANATOMY = (("FrameLaterality", "ImageLaterality"), ("AnatomicRegionSequence", "AnatomicRegionSequence"))
# Where enhanced MR files state what classic ones have at the top: sequence of the functional groups, its element, ours.
ENHANCED_MR = (
    ("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle"),
    ("MRTimingAndRelatedParametersSequence", "EchoTrainLength", "EchoTrainLength"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRModifierSequence", "InversionTimes", "InversionTime"),
)
