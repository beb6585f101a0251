"""Migration: every earlier configuration becomes today's, key by key, or is refused with the key in the way.

Each folder under tests/cases/migrate holds an earlier file and what it becomes.
"""

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import FoundryError
from pipeline.spec import CODES, SpecError, load_spec, parse_spec
from pipeline.spec.check import check
from pipeline.spec.document import parse_document
from pipeline.spec.migrate.dialects import DIALECTS
from pipeline.spec.migrate.migration import MIGRATIONS, Options, migrate, require_dialect
from pipeline.spec.migrate.prove import proven
from pipeline.spec.migrate.table import UNSET, Carried
from pipeline.spec.migrate.translate import translate
from pipeline.spec.schema import is_leaf, schema_at, schema_of
from pipeline.spec.versions import CURRENT

pytestmark = pytest.mark.unit
CASES = Path(__file__).parents[1] / "cases" / "migrate"
GIVEN = Options(text=["corpus"])
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
# The fields of the flat training config, as its documentation listed them.
FLAT_FIELDS = [
    "random_seed", "deterministic", "learning_rate", "batch_size", "epochs", "warmup_ratio", "weight_decay",
    "max_grad_norm", "use_amp", "gradient_accumulation_steps", "early_stopping_patience", "validation_split",
    "compile_mode", "compile_fullgraph", "compile_dynamic", "strategy", "devices", "num_nodes",
    "accumulate_grad_batches", "precision", "model_name", "model_type", "vocab_size", "max_seq_len", "d_model",
    "num_heads", "num_layers", "d_ff", "dropout", "task_name", "eval_dataset_id", "resume_from_checkpoint",
    "dataset_name", "dataset_split", "dataset_subset", "max_train_samples", "max_val_samples", "checkpoint_dir",
    "save_every_n_epochs", "keep_best_only", "wandb_project", "wandb_entity", "run_name", "export_bundle",
    "export_formats", "export_dir", "created_at", "config_version", "notes",
]  # fmt: skip
FLAT = {"task_name": "lm_tiny", "num_layers": 2}
TRAINER = (CASES / "trainer" / "old.yaml").read_text()
FINETUNING = json.loads((CASES / "finetuning" / "old.json").read_text())


def cases():
    return [pytest.param(path, id=path.name) for path in sorted(CASES.iterdir())]


def old_file(case):
    [path] = case.glob("old.*")
    return path


@pytest.fixture
def migrated(tmp_path):
    """Values or a text of an earlier file → its migration."""

    def run(content, *, options=GIVEN, name=None):
        text = content if isinstance(content, str) else json.dumps(content, indent=2)
        path = tmp_path / (name or ("old.yaml" if isinstance(content, str) else "old.json"))
        path.write_text(text, newline="")
        return migrate(path, options)

    return run


@pytest.fixture
def problems_of(migrated):
    """Values or a text of an earlier file → why it cannot be carried over."""

    def problems(content, **options):
        with pytest.raises(SpecError) as caught:
            migrated(content, **options)
        return caught.value.problems

    return problems


def spec_of(done):
    return parse_spec(done.after.encode(), str(done.target), kind=None)


# What becomes of a file


@pytest.mark.parametrize("case", cases())
def test_an_earlier_file_becomes_the_file_beside_it(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no editor's modeline outside the project

    done = migrate(old_file(case), GIVEN)

    assert done.after == (case / "new.yaml").read_text()
    assert load_spec(case / "new.yaml", kind=None).kind == done.steps[-1].split("(")[-1].rstrip(")")


@pytest.mark.parametrize("name", ["training-config", "evaluation", "tiers", "trainer", "one-command"])
def test_the_case_of_a_dialect_has_every_key_of_its_table(name):
    document = parse_document(old_file(CASES / name).read_bytes(), "old.yaml")

    found = translate(document, BY_NAME[name], text=["corpus"])

    assert {fate.old for fate in found.fates} >= {row.old for row in BY_NAME[name].rows if "*" not in row.old}


def test_every_documented_field_of_the_flat_training_config_has_a_row():
    assert [name for name in FLAT_FIELDS if BY_NAME["training-config"].row(name) is None] == []


@pytest.mark.parametrize("dialect", [pytest.param(dialect, id=dialect.name) for dialect in DIALECTS])
def test_a_table_leads_to_settings_that_exist_and_has_a_reason_for_every_other_key(dialect):
    schema = schema_of(dialect.kind)
    rows = [row for row in dialect.rows if isinstance(row, Carried)]

    for row in (*rows, *dialect.derived, *dialect.fixed):
        assert is_leaf(schema_at(row.new.split("."), schema)), row.new
    assert all(row.reason for row in dialect.rows if row not in rows)
    assert all(dialect.row(derived.reads) in rows for derived in dialect.derived)
    assert len({row.old for row in dialect.rows}) == len(dialect.rows)
    assert all(row.default is not UNSET for row in rows if row.old == dialect.names_text)


def test_there_is_a_migration_from_every_version_before_the_newest():
    assert sorted(MIGRATIONS) == list(range(CURRENT))


def test_a_document_of_today_is_left_alone(migrated):
    text = "schema_version: 1 # kept\nname: x\ndataset: {source: {kind: files, paths: [corpus]}}\n"

    done = migrated(text)

    assert (done.after, done.steps, done.target) == (text, (), done.source)


@pytest.mark.parametrize("case", cases())
def test_what_was_migrated_is_not_migrated_again(case):
    done = migrate(case / "new.yaml")

    assert done.steps == ()


def test_a_setting_comes_from_the_file_from_a_default_of_then_or_from_one_of_today(migrated):
    report = "\n".join(migrated({**FLAT, "learning_rate": 1e-3}).report)

    assert "learning_rate  → training.learning_rate" in report
    assert "    training.epochs: 10 (its default)" in report
    assert "    scheduler.scheduler_type: constant (it never used a schedule)" in report
    counts = [int(number) for number in re.findall(r"^ {0,2}(\d+) (?:settings|from|as|that)", report, re.MULTILINE)]
    assert counts[0] == sum(counts[1:])


def test_the_meaning_of_then_is_kept_where_names_and_defaults_mislead(migrated):
    spec = spec_of(migrated({**FLAT, "warmup_ratio": 0.3, "vocab_size": 300, "precision": "32"}))

    assert (spec.scheduler.scheduler_type, spec.scheduler.warmup_ratio) == ("constant", 0.0)
    assert (spec.tokenizer.tokenizer_type, spec.tokenizer.byte_fallback) == ("char", False)
    assert (spec.model.model_type, spec.hardware.precision, spec.validation.budgets.val_loss) == ("gpt", "32", None)


FLAT_CONFIGS = st.fixed_dictionaries(
    {"task_name": st.sampled_from(["lm_tiny", "letters"]), "num_layers": st.integers(1, 1024)},
    optional={
        "random_seed": st.integers(0, 2**63 - 1),
        "deterministic": st.booleans(),
        "learning_rate": st.floats(1e-300, 1e3),
        "batch_size": st.integers(1, 65536),
        "epochs": st.integers(1, 1_000_000),
        "warmup_ratio": st.floats(0, 1),
        "weight_decay": st.floats(0, 10),
        "max_grad_norm": st.floats(1e-9, 1e9),
        "use_amp": st.booleans(),
        "accumulate_grad_batches": st.integers(1, 65536),
        "early_stopping_patience": st.integers(0, 100),
        "validation_split": st.floats(1e-6, 0.5),
        "compile_mode": st.sampled_from([None, "default", "reduce-overhead", "max-autotune"]),
        "compile_dynamic": st.booleans(),
        # fsdp_native is refused beside a scaled loss.
        "strategy": st.sampled_from([None, "auto", "ddp", "dp"]),
        "devices": st.sampled_from(["auto", None, 1, 4]),
        # 16-true alone is refused: it wants a larger adam_epsilon, which these files cannot say.
        "precision": st.sampled_from(["32", "16", "bf16", "16-mixed", "bf16-mixed", "32-true", "bf16-true"]),
        "vocab_size": st.integers(16, 1_000_000),
        "max_seq_len": st.integers(2, 4096),
        "d_model": st.sampled_from([192, 384, 768]),
        "num_heads": st.sampled_from([1, 2, 3, 4, 6, 8]),
        "dropout": st.floats(0, 1, exclude_max=True),
        "max_train_samples": st.none() | st.integers(1, 10**12),
        "save_every_n_epochs": st.integers(1, 1_000_000),
        "export_formats": st.lists(st.sampled_from(["onnx", "torchscript", "pytorch"]), min_size=1, unique=True),
        "run_name": st.none()
        | st.text(st.characters(categories=["L", "N"], include_characters=" ,.-_"), min_size=1, max_size=120),
        "notes": st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        "checkpoint_dir": st.just("/content/drive"),
        "wandb_project": st.just("transformer-builder-training"),
        "created_at": st.just("2025-03-01T12:00:00"),
    },
)


@settings(max_examples=60, deadline=None)
@given(FLAT_CONFIGS)
def test_every_valid_flat_config_becomes_a_spec_that_passes_the_check_with_every_field_accounted_for(config):
    document = parse_document(json.dumps(config).encode(), "old.json")

    found = translate(document, BY_NAME["training-config"], text=["corpus"])

    assert found.problems == []
    assert [fate.old for fate in found.fates] == list(config)
    spec = parse_spec(json.dumps(found.values).encode(), "new.json").to_dict()
    for fate in found.fates:
        if fate.new:
            section, _, name = fate.new.partition(".")
            assert (spec[section][name] if name else spec[section]) == fate.value


def test_the_proof_fails_when_the_new_text_says_something_else(tmp_path):
    document = parse_document(json.dumps(FLAT).encode(), "old.json")
    found = translate(document, BY_NAME["training-config"], text=["corpus"])
    text = json.dumps(found.values)

    assert proven(found, text, "new.json").model.num_layers == 2
    with pytest.raises(FoundryError, match=r"does not say what the earlier file said: model\.num_layers"):
        proven(found, text.replace('"num_layers": 2', '"num_layers": 3'), "new.json")


# What is refused


@pytest.mark.parametrize(
    ("content", "code", "where", "hint"),
    [
        ({**FLAT, "learnign_rate": 1}, "E0604", "learnign_rate",
         "did you mean `learning_rate`?; to go on without it: --drop learnign_rate"),
        ({**FLAT, "model_file": "model.py"}, "E0605", "model_file", "--drop model_file"),
        ({**FLAT, "resume_from_checkpoint": "a.pt"}, "E0605", "resume", "--drop resume_from_checkpoint"),
        ({**FLAT, "eval": {"eval_interval_steps": 50}}, "E0605", "interval", "--drop eval.eval_interval_steps"),
        ({**FLAT, "gradient_accumulation_steps": 4, "accumulate_grad_batches": 1}, "E0606", "accumulate_grad_batches",
         "keep one of them: --drop gradient_accumulation_steps or --drop accumulate_grad_batches"),
        ({**FLAT, "gradient_accumulation_steps": 1, "accumulate_grad_batches": True}, "E0606", "batches", ""),
        ({**FLAT, "model_type": "bert"}, "E0607", "bert", "foundry new NAME --from PRESET"),
        ({**FLAT, "model_type": "T5"}, "E0607", "T5", ""),
        ({**FLAT, "model_type": "custom"}, "E0607", "custom", ""),
        ({"task_name": "vision_tiny", "num_layers": 2}, "E0607", "vision_tiny", ""),
        (TRAINER.replace("architecture: gpt2", "architecture: mamba"), "E0607", "mamba", ""),
        (TRAINER.replace("architecture: gpt2", "architecture: lstm"), "E0607", "lstm", ""),
        (TRAINER.replace("mlm_probability: 0.15", "mlm_probability: 0.3"), "E0605", "0.3", ""),
        (TRAINER.replace("sentencepiece", "wordpiece"), "E0607", "wordpiece", ""),
        (TRAINER.replace("test_corpus: null", "test_corpus: more"), "E0605", "more", "--drop data.test_corpus"),
        (TRAINER.replace("embedding_size: 192", "embedding_size: 96"), "E0606", " hidden_size", ""),
        ({"tier": "4", "export": {"quantization": "dynamic"}}, "E0605", "dynamic", "--drop export.quantization"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_today_is_an_error_at_its_key(problems_of, content, code, where, hint):
    [problem] = problems_of(content)

    assert problem.code == code
    assert where in problem.source
    assert problem.hint.endswith(hint)


@pytest.mark.parametrize(
    ("content", "code", "where"),
    [
        ({**FLAT, "dropout": 7.0}, "E0303", "dropout"),
        ({**FLAT, "precision": "banana"}, "E0304", "banana"),
        ({**FLAT, "precision": 32}, "E0301", "precision"),
        ({**FLAT, "precision": "16-true"}, "E0412", "precision"),
        ({**FLAT, "precision": "bfloat16"}, "E0304", "bfloat16"),
        ({**FLAT, "num_heads": 0}, "E0303", "num_heads"),
        ({**FLAT, "num_heads": 5}, "E0401", "num_heads"),
        ({**FLAT, "d_model": 100}, "E0401", "d_model"),
        ({**FLAT, "batch_size": True}, "E0301", "batch_size"),
        ({**FLAT, "export_formats": ["onnx", "exe"]}, "E0304", "exe"),
        ({**FLAT, "learning_rate": float("nan")}, "E0301", "NaN"),
        ("task_name: x\nnum_layers: 2\nlearning_rate: .nan\n", "E0113", ".nan"),
        ("task_name: x\nnum_layers: 2\nmodel_file: .inf\n", "E0113", ".inf"),
        ("task_name: x\nnum_layers: 2\nexport_formats: [onnx, .nan]\n", "E0113", ".nan"),
        ("task_name: x\nnum_layers: 2\nepochs: 1\nepochs: 2\n", "E0108", "epochs: 2"),
        ({**FLAT, "max_grad_norm": -1}, "E0303", "max_grad_norm"),
        ({**FLAT, "strategy": "xyz"}, "E0304", "xyz"),
        (TRAINER.replace("gelu", "relu"), "E0304", "relu"),
        (TRAINER.replace("causal_lm", "masked_lm").replace("<speaker>", "<mask>"), "E0423", "architecture"),
        (TRAINER.replace(": 192", ": 190"), "E0401", "attention_heads"),
        ({**FINETUNING, "tools": {}}, "E0301", "tools"),
        ({**FINETUNING, "model": {**FINETUNING["model"], "torch_dtype": "bf16"}}, "E0304", "bf16"),
    ],
)
def test_a_value_that_was_wrong_then_is_shown_on_its_own_line(problems_of, content, code, where):
    [problem] = problems_of(content)

    assert problem.code == code
    assert where in problem.source


def test_everything_that_stands_in_the_way_is_said_at_once(problems_of):
    problems = problems_of(
        {**FLAT, "dataset_name": "plays", "model_file": "m.py", "dropout": 7.0, "foo": 1}, options=Options()
    )

    assert [problem.code for problem in problems] == ["E0608", "E0605", "E0303", "E0604"]


def test_a_loss_that_is_accepted_is_remembered_in_the_file(migrated):
    done = migrated({**FLAT, "model_file": "model.py"}, options=Options(dropped=["model_file"], text=["corpus"]))

    assert '# not carried over: model_file: "model.py"\nschema_version: 1' in done.after
    assert done.dropped == ("model_file",)


def test_a_loss_that_is_accepted_is_remembered_where_yaml_is_edited_too(migrated):
    text = TRAINER.replace("test_corpus: null", "test_corpus: more")

    done = migrated(text, options=Options(dropped=["data.test_corpus"]))

    assert "\n# not carried over: data.test_corpus: more\nschema_version: 1\n" in done.after


def test_one_of_two_keys_that_differ_can_be_dropped(migrated):
    config = {**FLAT, "gradient_accumulation_steps": 4, "accumulate_grad_batches": 1}

    done = migrated(config, options=Options(dropped=["accumulate_grad_batches"], text=["corpus"]))

    assert spec_of(done).training.gradient_accumulation_steps == 4


def test_features_and_attention_weights_are_dropped_at_the_rates_of_then(migrated):
    model = spec_of(migrated(TRAINER.replace("attention_dropout: 0.1", "attention_dropout: 0.2"))).model

    assert (model.dropout, model.attention_dropout) == (0.1, 0.2)


def test_a_text_that_is_only_named_must_be_given(problems_of):
    [problem] = problems_of({**FLAT, "dataset_name": "plays"}, options=Options())

    assert (problem.code, problem.line) == ("E0608", 4)
    assert problem.hint.endswith("--text PATH")


@pytest.mark.parametrize(
    ("config", "source"),
    [
        ({}, {"repository": "Salesforce/wikitext", "subset": "wikitext-103-v1", "split": "train"}),
        ({"dataset_name": "imdb", "dataset_split": "test"}, {"repository": "stanfordnlp/imdb", "split": "test"}),
        (
            {"dataset_name": "wikitext", "dataset_subset": "wikitext-2-raw-v1"},
            {"repository": "Salesforce/wikitext", "subset": "wikitext-2-raw-v1"},
        ),
        ({"dataset_name": "owner/tales", "dataset_subset": None}, {"repository": "owner/tales", "subset": None}),
    ],
)
def test_a_text_that_a_name_of_the_hub_means_is_read_from_there(migrated, config, source):
    done = migrated({**FLAT, **config}, options=Options())

    found = spec_of(done).to_dict()["dataset"]["source"]
    assert found == {"kind": "hub", "revision": None, "subset": None, "split": "train"} | source | {
        "text_field": "text",
        "max_rows": None,
    }
    assert any("the name is one of the Hugging Face hub" in line for line in done.report)


def test_text_that_is_given_comes_before_a_name_of_the_hub(migrated):
    done = migrated({**FLAT, "dataset_name": "owner/tales", "dataset_split": "test"})

    assert spec_of(done).to_dict()["dataset"]["source"]["kind"] == "files"
    assert any("dataset_split" in line and "dropped" in line for line in done.report)


def test_a_key_of_two_systems_is_not_guessed_at(problems_of, migrated):
    config = {"epochs": 3, "batch_size": 4}

    [problem] = problems_of(config)

    assert problem.code == "E0602"
    assert "--dialect training-config" in problem.message
    assert "--dialect one-command" in problem.message
    done = migrated(config, options=Options(dialect="one-command"))
    assert spec_of(done).training.batch_size == 4


@pytest.mark.parametrize("content", [{"a": 1, "b": {"c": 2}}, "plays: [a, b]\n", "name: x\ndataset: {source: {}}\n"])
def test_a_file_of_no_known_system_is_refused(problems_of, content):
    [problem] = problems_of(content)

    assert problem.code == "E0603"


def test_a_dialect_that_there_is_not_is_answered_with_one_that_there_is():
    with pytest.raises(FoundryError) as caught:
        require_dialect("finetunin")

    assert caught.value.hint == "did you mean finetuning?"


@pytest.mark.parametrize("version", ["2", "17", "-1", "true", "'1'", "null"])
def test_a_version_that_is_not_known_is_refused(problems_of, version):
    problems = problems_of(f"schema_version: {version}\nname: x\nnew_section: {{}}\n")

    assert {problem.path for problem in problems} == {"schema_version"}


def test_a_newer_version_is_refused_with_the_toolkit_that_reads_it_and_nothing_else_is_said():
    document = parse_document(b"schema_version: 2\nname: x\nnew_section: {}\n", "x.yaml")

    [problem] = check(document)

    assert (problem.code, problem.line) == ("E0206", 1)
    assert "newer than this toolkit" in problem.message
    assert "a newer toolkit than" in problem.hint


@pytest.mark.parametrize("case", cases())
def test_the_check_says_what_to_run_for_a_document_of_an_earlier_system(case):
    if old_file(case).suffix == ".sh":
        pytest.skip("a shell call is no document")
    document = parse_document(old_file(case).read_bytes(), str(old_file(case)))

    [problem] = check(document)

    assert problem.code == "E0601"
    assert problem.hint == f"run: foundry migrate {old_file(case)}"


@pytest.mark.parametrize(
    "text",
    [
        "name: x\ndataset:\n  source: {kind: files, paths: [corpus]}\n",
        "name: x\ntraining: {learning_rate: 1.0e-3, epochs: 2, gradient_accumulation_steps: 1}\n",
        "name: x\nmodel: {dropout: 0.1}\nlogging: {console_level: info}\n",
    ],
)
def test_a_document_of_today_without_a_version_is_not_taken_for_an_earlier_one(text):
    codes = {problem.code for problem in check(parse_document(text.encode(), "x.yaml"))}

    assert "E0204" in codes
    assert "E0601" not in codes


def test_every_code_of_migrations_is_fired_by_a_test():
    text = Path(__file__).read_text()

    assert [code for code in CODES if code.startswith("E06") and f'"{code}"' not in text] == []


# How an earlier YAML file is edited


def test_comments_and_order_are_kept_and_lines_that_mean_the_same_are_not_touched(migrated):
    done = migrated(TRAINER)

    before, after = TRAINER.splitlines(), done.after.splitlines()
    assert [
        line for line in before if line.lstrip().startswith("#") and line.strip() not in map(str.strip, after)
    ] == []
    for untouched in ("  vocab_size: 8000", "  learning_rate: 3e-4 # peak", "  epochs: 10", "# the end"):
        assert untouched in before
        assert untouched in after
    assert "name: bard # as in the paper" in after
    assert "  num_layers: 4          # shallow" in after
    assert after.index("# Where the text is") < after.index("dataset:") < after.index("tokenizer:")


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: f"---\n{text}",
        lambda text: f"%YAML 1.2\n---\n{text}...\n",
        lambda text: text.replace("learning_rate:", '"learning_rate":').replace("data:", "'data':", 1),
        lambda text: text.replace("batch_size: 16", "batch_size: &six 6").replace("heads: 6", "heads: *six"),
        lambda text: text.replace("layers: 4 ", "layers:\n      4 "),
        lambda text: re.sub(r"(?m)^    (\S)", r"        \1", text),
        lambda text: text.replace("training_corpus: corpora/plays", "training_corpus: |-\n    corpora/plays"),
        lambda text: text.replace("experiment_name: bard", "experiment_name: >-\n  bard\n\n#"),
        lambda text: json.dumps(parse_document(text.encode(), "x.yaml").values),
    ],
    ids=["CRLF", "byte order mark", "no last line end", "document marker", "directive and end marker", "quoted keys",
         "anchors", "value below its key", "deeper", "block of text", "folded text", "flow"],
)  # fmt: skip
def test_whatever_the_style_of_a_file_it_says_the_same_afterwards(migrated, edit):
    text = edit(TRAINER)
    batch = 6 if "*six" in text else 16

    spec = spec_of(migrated(text))

    assert (spec.name, spec.training.batch_size, spec.model.num_layers) == ("bard", batch, 4)
    assert (spec.dataset.source.paths, spec.tokenizer.special_tokens) == (("corpora/plays",), ("<speaker>",))


def test_line_ends_stay_those_of_the_file(migrated):
    done = migrated(TRAINER.replace("\n", "\r\n"))

    assert done.after.count("\n") == done.after.count("\r\n")


@pytest.mark.parametrize("seed", range(30))
def test_sections_can_stand_in_any_order_with_comments_anywhere(tmp_path, seed):
    path = tmp_path / "old.yaml"
    path.write_text(_shuffled(TRAINER, random.Random(seed)))

    done = migrate(path)

    assert spec_of(done).hash() == load_spec(CASES / "trainer" / "new.yaml").hash()
    marks = re.findall(r"# mark \d+", path.read_text())
    assert sorted(re.findall(r"# mark \d+", done.after)) == sorted(marks)


def _shuffled(text, draw):
    """The top-level parts of a file in another order, with marks in between and blank lines taken out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    parts = []
    for line in lines:
        if line.startswith(" "):
            parts[-1].append(line)
        else:
            parts.append([line])
    draw.shuffle(parts)
    written = []
    for line in (line for part in parts for line in part):
        if draw.random() < 0.2:
            written.append(f"{' ' * draw.choice([0, 2, 7])}# mark {len(written)}")
        if draw.random() < 0.1:
            written.append("")
        written.append(line)
    return "\n".join(written) + "\n"
