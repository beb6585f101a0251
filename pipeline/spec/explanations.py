"""What each code means: why it is one, an example that has it, and the same example mended.

docs/spec-errors.md prints this table; a test runs every example.
"""

from __future__ import annotations

from dataclasses import dataclass

# What stands above an example that is a part of a spec: the least that a spec needs.
MINIMAL = "schema_version: 1\nname: example\ndataset:\n  source: {kind: files, paths: [corpus]}\n"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known about a code.

    Attributes:
        why: what it means, and why it matters.
        wrong: a text that has the problem; empty where a text alone cannot have it.
        right: the same text, mended.
        head: what stands above both and is not shown; empty when they are whole files.
    """

    why: str
    wrong: str = ""
    right: str = ""
    head: str = MINIMAL


# The beginnings of documents of other kinds
_DOCUMENT = "schema_version: 1\nkind: {}\nname: example\n"
_TASK = f"{_DOCUMENT.format('task')}input_fields: [text]\n"
_CLASSES = "output_schema: {num_classes: 4}\n"
_PICTURE = "input_schema: {image_size: [3, 32, 32]}\n"
_PICTURES = (
    f"{_TASK}task_type: vision_classification\nmodel_family: encoder_only\nmodality: vision\n{_PICTURE}{_CLASSES}"
)
_TABLES = f"{_TASK}task_type: classification\nmodel_family: encoder_only\nmodality: tabular\n{_CLASSES}"
_SWEEP = _DOCUMENT.format("sweep")
_TOOL = "{name: now, description: The time of day., parameters: {}}"
_TEMPLATE = (
    f"{_DOCUMENT.format('template')}description: An example.\nfor: experiment\n"
    "parameters:\n  epochs: {type: integer, title: passes, default: 2}\n"
)
_SEES = "schema_version: 1\nname: example\ntask: {task_type: vision_classification}\nmodel: {model_type: cnn}\n"
_SOURCE = "  dataset: {source: {kind: files, paths: [corpus]}}\n"


def _finetune(
    training: str,
    model: str = "torch_dtype: auto",
    data: str = "strategy: toolbench, generation_type: real",
    tools: str = f"[{_TOOL}]",
) -> str:
    return (
        f"{_DOCUMENT.format('finetune')}model: {{name: someone/a-model, {model}}}\n"
        f"training: {{{training}}}\ndata: {{{data}}}\ntools: {tools}\n"
    )


EXPLANATIONS: dict[str, Explanation] = {
    # The file
    "E0101": Explanation(
        "The path leads to no file that can be read. Paths are relative to the folder in which the command runs, which "
        "should be the project folder; a shipped preset can be given by its name alone."
    ),
    "E0102": Explanation(
        "A spec is a few kilobytes, so a file of more than 250 kilobytes is something else, and reading it would only "
        "take time. Large lists, such as documents to train on, belong into files that a spec names."
    ),
    "E0103": Explanation(
        "YAML and JSON are text in UTF-8. A file saved in another encoding would be read with wrong letters, so it is "
        "refused. Editors can save it again as UTF-8."
    ),
    "E0104": Explanation(
        "The text breaks the rules of YAML at this place, so that nothing below it can be trusted. The usual causes "
        "are a tab as indentation, text with `: ` that is not in quotes, and brackets or quotes that are not closed.",
        "notes: rerun: with more data\n",
        'notes: "rerun: with more data"\n',
    ),
    "E0105": Explanation(
        "The file holds comments or nothing at all. Defaults are not taken for a whole spec, because where the text to "
        "learn from lies has none.",
        "# my experiment\n",
        MINIMAL,
        head="",
    ),
    "E0106": Explanation(
        "A line `---` begins a second document. Which of the two would be trained is anyone's guess: one file is one "
        "spec.",
        "---\nname: another\n",
        'notes: "another is in a file of its own"\n',
    ),
    "E0107": Explanation(
        "A spec is a mapping: names, colons, values. A file that begins with `-` is a list, one without colons is a "
        "single text.",
        "- schema_version: 1\n- name: example\n",
        MINIMAL,
        head="",
    ),
    "E0108": Explanation(
        "YAML readers disagree on which of two equal keys counts, and most take the last in silence. The first one "
        "that you see while editing may be the one without effect, so both are refused.",
        "training:\n  epochs: 2\n  epochs: 20\n",
        "training:\n  epochs: 20\n",
    ),
    "E0109": Explanation(
        "Every setting has a name. A number, a list or `null` in place of a name is mostly a slip with colons or "
        "indentation.",
        "[notes, name]: one\n",
        "notes: one\n",
    ),
    "E0110": Explanation(
        "A tag such as `!!python/object` asks the reader to build something of the file's choice, which is how YAML "
        "files run code. A spec holds plain values only.",
        "training:\n  epochs: !!int 2\n",
        "training:\n  epochs: 2\n",
    ),
    "E0111": Explanation(
        "`<<` copies the keys of another mapping in YAML 1.1 and is an ordinary key in YAML 1.2. A spec says "
        "everything where it stands, so that a difference between two versions shows all that changed.",
        "training: &base {epochs: 2}\nscheduler:\n  <<: *base\n",
        "training: {epochs: 2}\nscheduler: {scheduler_type: linear}\n",
    ),
    "E0112": Explanation(
        "A small file can stand for gigabytes when aliases repeat aliases (the billion laughs), and very deep nesting "
        "exhausts a reader. The limits are far above what a spec needs.",
        "notes: &word ha\ntask:\n  task_name: [" + ", ".join(["*word"] * 17) + "]\n",
        "notes: ha\n",
    ),
    "E0113": Explanation(
        "Infinity, NaN and numbers beyond 64 bits pass most range checks and ruin a run hours later: NaN is neither "
        "below nor above any limit.",
        "training:\n  learning_rate: .nan\n",
        "training:\n  learning_rate: 5e-4\n",
    ),
    "E0114": Explanation(
        "`\\ud83d` is the first half of a character that takes two escapes. Alone it is not text and could not be "
        "written to any file.",
        'notes: "\\ud83d"\n',
        'notes: "\\ud83d\\ude00"\n',
    ),
    # Keys
    "E0201": Explanation(
        "No setting has this name here. Most tools ignore what they do not know, and the run goes on with the default "
        "instead of the value that was written; here it is an error. The suggestion comes from slips of the hand and "
        "from the names that other tools use.",
        "training:\n  learning_rte: 1e-3\n",
        "training:\n  learning_rate: 1e-3\n",
    ),
    "E0202": Explanation(
        "The setting exists in another section. Where it stands now nothing would read it.",
        "model:\n  batch_size: 16\n",
        "training:\n  batch_size: 16\n",
    ),
    "E0203": Explanation(
        "Some sections come in kinds, chosen by one key such as `kind`, and each kind takes keys of its own. This key "
        "is of another kind than the one chosen, so one of the two is not meant.",
        "schema_version: 1\nname: example\ndataset:\n  source: {kind: files, paths: [corpus], url: 'https://x.org/a'}\n",
        "schema_version: 1\nname: example\ndataset:\n  source: {kind: url, url: 'https://x.org/a'}\n",
        head="",
    ),
    "E0204": Explanation(
        "This key has no default, because no value would be right for everyone: where the text comes from, what the "
        "experiment is called.",
        "schema_version: 1\ndataset:\n  source: {kind: files, paths: [corpus]}\n",
        MINIMAL,
        head="",
    ),
    "E0205": Explanation(
        "A section holds keys, indented below it. An empty one is mostly left over from deleting its keys, and one "
        "with a value is mostly a setting in the wrong place.",
        "training: fast\n",
        "training:\n  epochs: 1\n",
    ),
    "E0206": Explanation(
        "The file was written for other schemas than these. What a key means may have changed, so nothing is guessed.",
        MINIMAL.replace("schema_version: 1", "schema_version: 99"),
        MINIMAL,
        head="",
    ),
    "E0207": Explanation(
        "A document says what it is with `kind:` (without it, an experiment). This version knows no kind of this name, "
        "or needs another one here. `foundry schema list` shows all.",
        "kind: experimnet\n",
        "kind: experiment\n",
    ),
    # Values
    "E0301": Explanation(
        "The value is of another type than the setting. YAML 1.2 is followed to the letter: `on`, `yes` and `1_000` "
        "are text, `true` is not a number, and `null` is a value of its own.",
        "reproducibility:\n  deterministic: yes\n",
        "reproducibility:\n  deterministic: true\n",
    ),
    "E0302": Explanation(
        "In quotes, a number or a word such as `true` is text.",
        'training:\n  epochs: "3"\n',
        "training:\n  epochs: 3\n",
    ),
    "E0303": Explanation(
        "The number is outside of what can work or make sense. The schema holds each limit; `foundry schema show "
        "experiment` and docs/spec-reference.md print them.",
        "model:\n  dropout: 7.0\n",
        "model:\n  dropout: 0.1\n",
    ),
    "E0304": Explanation(
        "The setting takes one of a few words, and this is none of them.",
        "export:\n  formats: [onxx]\n",
        "export:\n  formats: [onnx]\n",
    ),
    "E0305": Explanation(
        "The text does not have the form that the setting needs: a hash of 64 hexadecimal digits, an address, a name "
        "without spaces.",
        "schema_version: 1\nname: my first run\ndataset:\n  source: {kind: files, paths: [corpus]}\n",
        "schema_version: 1\nname: my-first-run\ndataset:\n  source: {kind: files, paths: [corpus]}\n",
        head="",
    ),
    "E0306": Explanation(
        "The text or list is too short or too long. An empty text is mostly a value that was never filled in.",
        "export:\n  formats: []\n",
        "export:\n  formats: [onnx]\n",
    ),
    "E0307": Explanation(
        "Each item counts once, so the second one is a slip or has no effect.",
        "export:\n  formats: [onnx, onnx]\n",
        "export:\n  formats: [onnx]\n",
    ),
    "E0308": Explanation(
        "The toolkit wrote this file and its schema says what can be in it, so it was changed by hand, damaged, or "
        "written by another version. The hint names the command that makes it again."
    ),
    # Rules between settings
    "E0401": Explanation(
        "Attention splits the d_model features of a token among num_heads heads, an equal number to each.",
        "model:\n  d_model: 192\n  num_heads: 5\n",
        "model:\n  d_model: 192\n  num_heads: 6\n",
    ),
    "E0402": Explanation(
        "In grouped-query attention each head of keys and values serves an equal number of query heads.",
        "model:\n  num_heads: 6\n  num_kv_heads: 4\n",
        "model:\n  num_heads: 6\n  num_kv_heads: 3\n",
    ),
    "E0403": Explanation(
        "Rotary positions (model_type `llama`) turn the features of a head in pairs, so a head needs an even number.",
        "model:\n  d_model: 99\n  num_heads: 3\n",
        "model:\n  d_model: 96\n  num_heads: 3\n",
    ),
    "E0404": Explanation(
        "What is held out for validation and test is not trained on. Together they take everything.",
        MINIMAL + "  validation_split: 0.5\n  test_split: 0.5\n",
        MINIMAL + "  validation_split: 0.1\n  test_split: 0.1\n",
        head="",
    ),
    "E0405": Explanation(
        "The validate stage judges the model on a split that this spec leaves empty.",
        "validation:\n  split: test\n",
        "validation:\n  split: validation\n",
    ),
    "E0406": Explanation(
        "The learning rate would still be rising when training ends, and never reach its peak.",
        "training: {max_steps: 100}\nscheduler: {warmup_steps: 200}\n",
        "training: {max_steps: 100}\nscheduler: {warmup_steps: 10}\n",
    ),
    "E0407": Explanation(
        "The `wsd` schedule warms up, stays, and decays, one after the other. The shares overlap.",
        "scheduler: {scheduler_type: wsd, warmup_ratio: 0.5, decay_ratio: 0.6}\n",
        "scheduler: {scheduler_type: wsd, warmup_ratio: 0.1, decay_ratio: 0.2}\n",
    ),
    "E0408": Explanation(
        "Control tokens, special tokens and the 256 bytes of byte_fallback come out of the vocabulary. Nothing is left "
        "for words.",
        "tokenizer: {vocab_size: 200}\n",
        "tokenizer: {vocab_size: 512}\n",
    ),
    "E0409": Explanation(
        "`<unk>`, `<s>`, `</s>` and `<pad>` are part of every vocabulary and cannot be declared again.",
        "tokenizer: {special_tokens: [<s>, <user>]}\n",
        "tokenizer: {special_tokens: [<user>]}\n",
    ),
    "E0410": Explanation(
        "A list in `devices` picks CUDA devices by their numbers. Processors have none.",
        "hardware: {device: cpu, devices: [0, 1]}\n",
        "hardware: {device: cpu, devices: auto}\n",
    ),
    "E0411": Explanation(
        "`dp` is an old name for training on the devices of one machine, and is run as `ddp` there. `ddp` itself "
        "crosses machines.",
        "hardware: {strategy: dp, num_nodes: 2}\n",
        "hardware: {strategy: ddp, num_nodes: 2}\n",
    ),
    "E0421": Explanation(
        "Pictures and texts become different arrays, and a task is about one of them: vision_classification needs "
        "pictures with one class each (`digits`, `image_folder`), vision_multilabel pictures with any number of labels "
        "(`image_table`), every other task a source of text.",
        "dataset: {source: {kind: digits}}\nmodel: {model_type: llama}\ntask: {task_type: lm}\n",
        "dataset: {source: {kind: digits}}\nmodel: {model_type: cnn}\ntask: {task_type: vision_classification}\n",
        head="schema_version: 1\nname: example\n",
    ),
    "E0422": Explanation(
        "`image_size` begins with the channels: 1 for grey, 3 for colour. A first number like 32 mostly means that "
        "height, width and channels stand in another order.",
        "dataset:\n  source: {kind: image_folder, path: pictures, image_size: [32, 32, 3]}\n",
        "dataset:\n  source: {kind: image_folder, path: pictures, image_size: [3, 32, 32]}\n",
        head=_SEES,
    ),
    "E0423": Explanation(
        "Each model takes one kind of input: convolutions (`cnn`) take pictures, transformers take text. Which of the "
        "two there is follows from task_type.",
        "dataset: {source: {kind: digits}}\ntask: {task_type: vision_classification}\nmodel: {model_type: gpt}\n",
        "dataset: {source: {kind: digits}}\ntask: {task_type: vision_classification}\nmodel: {model_type: cnn}\n",
        head="schema_version: 1\nname: example\n",
    ),
    "E0424": Explanation(
        "GroupNorm shares the channels of a stage out among groups of equal size, so that norm_groups must divide "
        "each entry of stage_channels.",
        "dataset: {source: {kind: digits}}\ntask: {task_type: vision_classification}\n"
        "model: {model_type: cnn, stage_channels: [12, 24]}\n",
        "dataset: {source: {kind: digits}}\ntask: {task_type: vision_classification}\n"
        "model: {model_type: cnn, stage_channels: [12, 24], norm_groups: 4}\n",
        head="schema_version: 1\nname: example\n",
    ),
    "E0412": Explanation(
        "With precision `16-true` Adam works in float16, whose smallest number is 6e-8: the usual adam_epsilon is zero "
        "there, and where a gradient is zero the update is 0 / 0.",
        "hardware: {precision: 16-true}\n",
        "hardware: {precision: 16-true}\noptimizer: {adam_epsilon: 1e-6}\n",
    ),
    "E0413": Explanation(
        "Gradients of float16 vanish unless the loss is scaled, and the scale follows from whether any gradient "
        "overflows. With `fsdp` each process has a part of the gradients. bfloat16 needs no scale.",
        "hardware: {strategy: fsdp, precision: 16-mixed}\n",
        "hardware: {strategy: fsdp, precision: bf16-mixed}\n",
    ),
    "E0414": Explanation(
        "The outputs of training, validation and export change with every training, so each run would begin with what "
        "the one before it made and none could be repeated. A copy stays what it is.",
        "training: {resume_from_checkpoint: artifacts/model}\n",
        "training: {resume_from_checkpoint: earlier}\n",
    ),
    "E0431": Explanation(
        "A classifier learns the class of each text. It stands in a field of JSON Lines records, or is the name of the "
        "folder that the file lies in.",
        f"{MINIMAL}task: {{task_type: text_classification}}\n",
        f"{MINIMAL}  label_from_folder: true\ntask: {{task_type: text_classification}}\n",
        head="",
    ),
    "E0432": Explanation(
        "Task `seq2seq` learns to write a target for a source, so each document is a pair: two fields of a JSON Lines "
        "record, or made from lines of plain text. No other task can use pairs.",
        f"{MINIMAL}task: {{task_type: seq2seq}}\n",
        f"{MINIMAL}  make_pairs: restore_case_and_punctuation\ntask: {{task_type: seq2seq}}\n",
        head="",
    ),
    "E0433": Explanation(
        "A target is written for its whole source. Dropping paragraphs that stand elsewhere too would cut sources, and "
        "keeping documents apart would hide them.",
        f"{MINIMAL}  target_field: answer\ntask: {{task_type: seq2seq}}\n",
        f"{MINIMAL}  target_field: answer\n  cleaning: {{drop_duplicate_paragraphs: false}}\n"
        "task: {task_type: seq2seq}\n",
        head="",
    ),
    "E0434": Explanation(
        "Task `masked_lm` puts a token of its own in the place of each hidden one. `<mask>` is that token, so it must "
        "be in the vocabulary, and where it stands in a prompt, the model fills it in.",
        "task: {task_type: masked_lm}\n",
        'task: {task_type: masked_lm}\ntokenizer: {special_tokens: ["<mask>"]}\n',
        head=f'{MINIMAL}model: {{model_type: bert}}\nvalidation: {{prompts: ["to be or not to <mask>"]}}\n',
    ),
    "E0441": Explanation(
        "A bundle runs where this toolkit is not installed: ONNX Runtime opens onnx, PyTorch alone opens torchscript. "
        "The format `pytorch` takes the model's class, which is here. What it serves writes text or chooses a class: a "
        "model of task `masked_lm` does neither.",
        "export: {export_bundle: true, formats: [pytorch]}\n",
        "export: {export_bundle: true, formats: [onnx, pytorch]}\n",
    ),
    "E0442": Explanation(
        "PyTorch's formats and a plain ONNX graph hold whatever a model computes. The others have a place for certain "
        "parts only: what has none would be left out in silence, so it is refused before anything is trained.",
        "model: {activation: relu2}\nexport: {formats: [gguf]}\n",
        "model: {activation: relu2}\nexport: {formats: [onnx]}\n",
    ),
    "E0443": Explanation(
        "8-bit arithmetic needs the range of every activation. `dynamic` measures it while the model runs; `static` "
        "measures it beforehand, on texts that the model writes itself.",
        "export: {formats: [onnx, int8]}\n",
        "export: {formats: [onnx, int8], quantization: dynamic}\n",
    ),
    # Rules of other documents
    "E0501": Explanation(
        "A model that predicts the next token must not see it, so it is a decoder; encoders see the whole text.",
        f"{_TASK}task_type: lm\nmodel_family: encoder_only\n",
        f"{_TASK}task_type: lm\nmodel_family: decoder_only\n",
        head="",
    ),
    "E0502": Explanation(
        "One answer out of many needs a softmax (`cross_entropy`); any number of answers at once needs a yes or no for "
        "each (`bce_with_logits`).",
        f"{_TASK}task_type: lm\nmodel_family: decoder_only\nloss_type: bce_with_logits\n",
        f"{_TASK}task_type: lm\nmodel_family: decoder_only\nloss_type: cross_entropy\n",
        head="",
    ),
    "E0503": Explanation(
        "A task on texts reads texts, one on pictures reads pictures.",
        f"{_TASK}task_type: text_classification\nmodel_family: encoder_only\nmodality: vision\n{_PICTURE}{_CLASSES}",
        f"{_TASK}task_type: text_classification\nmodel_family: encoder_only\nmodality: text\n{_CLASSES}",
        head="",
    ),
    "E0504": Explanation(
        "A classifier has one output for each class, so their number shapes the model.",
        f"{_TASK}task_type: text_classification\nmodel_family: encoder_only\n",
        f"{_TASK}task_type: text_classification\nmodel_family: encoder_only\n{_CLASSES}",
        head="",
    ),
    "E0505": Explanation(
        "Texts get their shape from the tokenizer. Pictures, tables and sounds have a shape that only this "
        "document can say.",
        _TABLES,
        f"{_TABLES}input_schema: {{num_features: 12}}\n",
        head="",
    ),
    "E0506": Explanation(
        "Each channel of a picture has a mean and a deviation of its own.",
        f"{_PICTURES}preprocessing_config: {{channel_mean: [0.5]}}\n",
        f"{_PICTURES}preprocessing_config: {{channel_mean: [0.5, 0.5, 0.5]}}\n",
        head="",
    ),
    "E0507": Explanation(
        "Perplexity is a figure of texts, F1 one of classes. The metric could not be computed for this task.",
        f"{_TASK}task_type: lm\nmodel_family: decoder_only\nmetrics: [loss, f1]\n",
        f"{_TASK}task_type: lm\nmodel_family: decoder_only\nmetrics: [loss, perplexity]\n",
        head="",
    ),
    "E0508": Explanation(
        "A language model learns to predict each next token, and of one token there is no next.",
        f"{_TASK}task_type: lm\nmodel_family: decoder_only\ninput_schema: {{max_length: 1}}\n",
        f"{_TASK}task_type: lm\nmodel_family: decoder_only\ninput_schema: {{max_length: 128}}\n",
        head="",
    ),
    "E0511": Explanation(
        "Limits that divide a scale stand in order, or one of the zones between them could never be reached.",
        f"{_DOCUMENT.format('monitoring')}drift: {{warn_threshold: 0.2, alert_threshold: 0.1}}\n",
        f"{_DOCUMENT.format('monitoring')}drift: {{warn_threshold: 0.1, alert_threshold: 0.2}}\n",
        head="",
    ),
    "E0521": Explanation(
        "A sweep varies settings of an experiment under their dotted names. There is no setting of this name.",
        f"{_SWEEP}method: grid\nspace:\n  training.lr: [1e-3, 2e-3]\n",
        f"{_SWEEP}method: grid\nspace:\n  training.learning_rate: [1e-3, 2e-3]\n",
        head="",
    ),
    "E0522": Explanation(
        "Each value of a sweep goes into an experiment, and this one would be refused there, after the trials before "
        "it have run.",
        f"{_SWEEP}method: grid\nspace:\n  model.d_model: [64, 96.5]\n",
        f"{_SWEEP}method: grid\nspace:\n  model.d_model: [64, 96]\n",
        head="",
    ),
    "E0523": Explanation(
        "A range goes from a lower end up, and one over orders of magnitude cannot start at zero, which has none.",
        f"{_SWEEP}method: grid\nspace:\n  model.dropout: {{kind: range, low: 0.5, high: 0.1, points: 3}}\n",
        f"{_SWEEP}method: grid\nspace:\n  model.dropout: {{kind: range, low: 0.1, high: 0.5, points: 3}}\n",
        head="",
    ),
    "E0524": Explanation(
        "A grid tries every value. A range has endlessly many, unless it says which.",
        f"{_SWEEP}method: grid\nspace:\n  model.dropout: {{kind: range, low: 0.0, high: 0.5}}\n",
        f"{_SWEEP}method: grid\nspace:\n  model.dropout: {{kind: range, low: 0.0, high: 0.5, points: 3}}\n",
        head="",
    ),
    "E0525": Explanation(
        "What draws its trials at random can draw for ever.",
        f"{_SWEEP}method: random\nspace:\n  model.dropout: {{kind: range, low: 0.0, high: 0.5}}\n",
        f"{_SWEEP}method: random\nspace:\n  model.dropout: {{kind: range, low: 0.0, high: 0.5}}\n"
        "budget: {max_trials: 20}\n",
        head="",
    ),
    "E0526": Explanation(
        "A step and a number of points both say which values of a range are tried. They would have to agree.",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: {{kind: range, low: 2, high: 8, step: 2, points: 4}}\n",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: {{kind: range, low: 2, high: 8, step: 2}}\n",
        head="",
    ),
    "E0527": Explanation(
        "Every trial is the base experiment with other values. With these it would be refused, after the trials before "
        "it have run. The rules of an experiment are tried on the values that each of them reads (10,000 combinations "
        "a rule), together with what the base says of the settings that are not swept.",
        f"{_SWEEP}method: grid\nspace:\n  model.d_model: [192, 200]\n  model.num_heads: [3, 4]\n",
        f"{_SWEEP}method: grid\nspace:\n  model.d_model: [192, 240]\n  model.num_heads: [3, 4]\n",
        head="",
    ),
    "E0528": Explanation(
        "A sweep compares its trials by one figure, under the name that it has in the records of runs "
        "(docs/records.md). There is no figure of this name.",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\nobjective: best_val_los\n",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\nobjective: best_val_loss\n",
        head="",
    ),
    "E0529": Explanation(
        "Of a loss less is better, of an accuracy more. The name of this figure does not say it.",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\nobjective: rollbacks\n",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\nobjective: rollbacks\ndirection: minimize\n",
        head="",
    ),
    "E0531": Explanation(
        "A trigger on new data fires at a number of samples or at a share of them. Without either it never would.",
        f"{_DOCUMENT.format('policy')}triggers:\n  - {{kind: data_volume, percentage: null}}\n",
        f"{_DOCUMENT.format('policy')}triggers:\n  - {{kind: data_volume, samples: 1000}}\n",
        head="",
    ),
    "E0532": Explanation(
        "Reports tell triggers apart by their names. A trigger without one is called after its kind.",
        f"{_DOCUMENT.format('policy')}triggers:\n  - {{kind: drift}}\n  - {{kind: drift}}\n",
        f"{_DOCUMENT.format('policy')}triggers:\n  - {{kind: drift}}\n  - {{kind: drift, name: large}}\n",
        head="",
    ),
    "E0541": Explanation(
        "The rank decides how many parameters LoRA trains. No number fits all models.",
        _finetune("method: sft, use_lora: true"),
        _finetune("method: sft, use_lora: true, lora_r: 8"),
        head="",
    ),
    "E0542": Explanation(
        "Weights stored as integers have no gradients. LoRA trains others beside them.",
        _finetune("method: sft", model="quantization: nf4"),
        _finetune("method: sft, use_lora: true, lora_r: 8", model="quantization: nf4"),
        head="",
    ),
    "E0543": Explanation(
        "Whoever learns to call tools must be told of them.",
        _finetune("method: sft", tools="[]"),
        _finetune("method: sft"),
        head="",
    ),
    "E0544": Explanation(
        "Learning from a teacher means learning from what it generates, not from real answers.",
        _finetune("method: teacher_mode"),
        _finetune("method: teacher_mode", data="strategy: toolbench, generation_type: synthetic"),
        head="",
    ),
    "E0545": Explanation(
        "A call names its tool, so two tools of one name cannot be told apart.",
        _finetune("method: sft", tools=f"[{_TOOL}, {_TOOL}]"),
        _finetune("method: sft"),
        head="",
    ),
    "E0546": Explanation(
        "Only arguments that are described can be demanded of a caller.",
        _finetune("method: sft", tools="[{name: now, description: The time of day., parameters: {required: [zone]}}]"),
        _finetune("method: sft"),
        head="",
    ),
    # Documents of earlier systems
    "E0601": Explanation(
        "The keys are those of a system that came before this one. `foundry migrate FILE` shows what the document "
        "would be today, what is dropped and why."
    ),
    "E0602": Explanation(
        "Several earlier systems had these keys, with other meanings. `foundry migrate FILE --dialect NAME` takes the "
        "one that you name."
    ),
    "E0603": Explanation(
        "`foundry migrate` knows neither a document of today nor one of an earlier system in these keys. If it is one, "
        "`--dialect NAME` says which."
    ),
    "E0604": Explanation(
        "The earlier system would have refused or ignored this key, so nobody can say what it was meant to do. "
        "`--drop KEY` leaves it out."
    ),
    "E0605": Explanation(
        "Nothing of today does what this key did. Leaving it out would change what the document means, so it is not "
        "done in silence: `--drop KEY` accepts the loss and notes it in the new file."
    ),
    "E0606": Explanation(
        "The earlier system had two keys for one setting, and here they differ. Which of them it obeyed is not "
        "certain: keep the one that was meant."
    ),
    "E0607": Explanation(
        "The document is about a model or a task that this toolkit does not train. Keep it with the system it is for."
    ),
    "E0608": Explanation(
        "The earlier system fetched a text by the name of a data set. A name of the Hugging Face hub, `owner/name`, "
        "becomes a source of kind `hub`. Of any other a spec must say where it is: `--text PATH` names the files or "
        "folders that hold it."
    ),
    # Templates
    "E0701": Explanation(
        "Each `${name}` in the values of a template is filled with the parameter of that name.",
        f"{_TEMPLATE}values:\n  notes: for ${{passes}} passes\n  training: {{epochs: '${{epochs}}'}}\n{_SOURCE}",
        f"{_TEMPLATE}values:\n  notes: for ${{epochs}} passes\n{_SOURCE}",
        head="",
    ),
    "E0702": Explanation(
        "A parameter that stands nowhere in the values would be asked for in vain.",
        f"{_TEMPLATE}values:\n  notes: for many passes\n{_SOURCE}",
        f"{_TEMPLATE}values:\n  training: {{epochs: '${{epochs}}'}}\n{_SOURCE}",
        head="",
    ),
    "E0703": Explanation(
        "A parameter has a default, or an example of what could fill the hole, of its own type: with them the template "
        "is tried.",
        f"{_TEMPLATE.replace('default: 2', 'default: two')}values:\n  training: {{epochs: '${{epochs}}'}}\n{_SOURCE}",
        f"{_TEMPLATE}values:\n  training: {{epochs: '${{epochs}}'}}\n{_SOURCE}",
        head="",
    ),
    "E0704": Explanation(
        "Filled with its defaults and examples, a template must become a document that passes the check.",
        f"{_TEMPLATE}values:\n  training: {{epochs: '${{epochs}}', batch_size: 0}}\n{_SOURCE}",
        f"{_TEMPLATE}values:\n  training: {{epochs: '${{epochs}}', batch_size: 8}}\n{_SOURCE}",
        head="",
    ),
    # Odd, not wrong
    "W0101": Explanation(
        "The value is allowed and rarely meant. For the learning rate, what is usual depends on the width: the sizes "
        "of GPT-3 (Brown et al. 2020, table 2.1) keep rate x width between 0.3 and 0.7, and the warning begins at 2, "
        "but never below a rate of 1e-3 and always above 1e-2.",
        "training: {learning_rate: 0.05}\n",
        "training: {learning_rate: 1e-3}\n",
    ),
    "W0102": Explanation(
        "The setting is right, but another one makes it idle, so that changing it changes nothing. A value that equals "
        "the default is not reported: a complete spec spells out settings that happen to be idle.",
        "scheduler: {scheduler_type: constant, min_lr_ratio: 0.5}\n",
        "scheduler: {scheduler_type: cosine, min_lr_ratio: 0.5}\n",
    ),
    "W0103": Explanation(
        "The document is right and can be kept, but this version does not do what it asks for. A stage refuses it "
        "before anything runs; nothing is left out in silence.",
        "  label_from_folder: true\ntask: {task_type: classification}\n",
        "  label_from_folder: true\ntask: {task_type: text_classification}\n",
    ),
    "W0104": Explanation(
        "`ddp`, `fsdp` and `dp` spread training over devices. With one device it runs in one process, as with `auto`.",
        "hardware: {strategy: ddp, devices: 1}\n",
        "hardware: {strategy: auto, devices: 1}\n",
    ),
    "W0105": Explanation(
        "use_amp allows mixed precision, precision `32-true` rules it out. Training runs in float32, which is perhaps "
        "not what was meant.",
        "hardware: {use_amp: true, precision: 32-true}\n",
        "hardware: {use_amp: true, precision: bf16-mixed}\n",
    ),
    "W0106": Explanation(
        "GPUs multiply 16-bit matrices several times as fast as 32-bit ones, and activations take half the memory.",
        "hardware: {device: cuda, precision: 32-true}\n",
        "hardware: {device: cuda, precision: bf16-mixed}\n",
    ),
    "W0107": Explanation(
        "warmup_ratio is a share of all steps. With few steps it rounds to none, and training starts at the peak rate, "
        "which can throw the weights far off.",
        "training: {max_steps: 20}\nscheduler: {warmup_ratio: 0.02}\n",
        "training: {max_steps: 20}\nscheduler: {warmup_steps: 2}\n",
    ),
    "W0108": Explanation(
        "torch.compile takes about half a minute before the first step and makes steps some 15 % faster. A short run "
        "ends before it has gained that time. `auto` weighs it.",
        "training: {max_steps: 50}\nhardware: {compile_mode: default}\n",
        "training: {max_steps: 50}\nhardware: {compile_mode: auto}\n",
    ),
    "W0109": Explanation(
        "The interval is longer than the run, so what it spaces never happens on the way: evaluation only at the end, "
        "or no checkpoint to resume from.",
        "training: {max_steps: 50, eval_every_n_steps: 100}\n",
        "training: {max_steps: 50, eval_every_n_steps: 10}\n",
    ),
    "W0110": Explanation(
        "PyTorch has deprecated TorchScript. As one format among others it serves who needs it; as the only one it "
        "leaves a model that later versions may not open.",
        "export: {formats: [torchscript]}\n",
        "export: {formats: [onnx, torchscript]}\n",
    ),
    "W0111": Explanation(
        "The path is relative to the project folder and no weights are there now. They may be put there later, so this "
        "is no error.",
        "training: {resume_from_checkpoint: no-such-model}\n",
        "training: {resume_from_checkpoint: null}\n",
    ),
    "W0112": Explanation(
        "reports/corpus.json of this project knows how much text the training split has. With fewer than 30 characters "
        "for a piece of the vocabulary, most pieces are seen fewer than ten times, too few to learn what they mean."
    ),
    "W0113": Explanation(
        "reports/tokenizer.json of this project knows how many tokens the training split has. batch_size x "
        "gradient_accumulation_steps sequences are more than that, so an epoch is a single step."
    ),
    "W0114": Explanation(
        "A model of task `masked_lm` fills in the tokens that a prompt hides. Where it hides none, there is nothing to "
        "see.",
        'validation: {prompts: ["to be or not to be"]}\n',
        'validation: {prompts: ["to be or not to <mask>"]}\n',
        head=f'{MINIMAL}tokenizer: {{special_tokens: ["<mask>"]}}\ntask: {{task_type: masked_lm}}\n'
        "model: {model_type: bert}\n",
    ),
    "W0201": Explanation(
        "Fine-tuning works with two bytes a weight. Four take twice the memory and more than twice the time.",
        _finetune("method: sft", model="torch_dtype: float32"),
        _finetune("method: sft", model="torch_dtype: bfloat16"),
        head="",
    ),
    "W0202": Explanation(
        "A pretrained model has much to lose: above 1e-3 fine-tuning mostly forgets what was learned before.",
        _finetune("method: sft, learning_rate: 5e-3"),
        _finetune("method: sft, learning_rate: 2e-4"),
        head="",
    ),
    "W0203": Explanation(
        "Some models come with Python code. It would run on this machine with all that you may do.",
        _finetune("method: sft", model="trust_remote_code: true"),
        _finetune("method: sft", model="trust_remote_code: false"),
        head="",
    ),
    "W0211": Explanation(
        "The grid has more combinations than the budget allows trials, so only its first corner is tried.",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3, 4, 5]\nbudget: {{max_trials: 2}}\n",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3, 4, 5]\nbudget: {{max_trials: 4}}\n",
        head="",
    ),
    "W0212": Explanation(
        "Documents are committed and shared. A password belongs into the environment or a file of its own.",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\nstorage: postgresql://me:secret@host/sweeps\n",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\nstorage: postgresql://me@host/sweeps\n",
        head="",
    ),
    "W0213": Explanation(
        "More accuracy is better and more loss is worse. As it stands, the sweep looks for the worst.",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\nobjective: best_val_loss\ndirection: maximize\n",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\nobjective: best_val_loss\ndirection: minimize\n",
        head="",
    ),
    "W0214": Explanation(
        "Trials start from an experiment. Paths are relative to the project folder, where `foundry check` is run.",
        f"{_SWEEP}method: grid\nbase: specs/gone.yaml\nspace:\n  model.num_layers: [2, 3]\n",
        f"{_SWEEP}method: grid\nspace:\n  model.num_layers: [2, 3]\n",
        head="",
    ),
}
