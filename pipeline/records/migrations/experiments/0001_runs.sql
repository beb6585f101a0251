-- Runs, what was measured in them, what they left, and which were compared.
-- The configuration stands last: listing runs does not read it.
CREATE TABLE runs (
  run_id TEXT PRIMARY KEY,
  run_name TEXT NOT NULL,
  notes TEXT NOT NULL DEFAULT '',
  created_at TEXT NOT NULL, -- UTC, ISO 8601
  updated_at TEXT NOT NULL,
  status TEXT NOT NULL DEFAULT 'running'
    CHECK (status IN ('running', 'completed', 'failed', 'interrupted', 'killed')),
  task_name TEXT,
  modality TEXT,
  strategy TEXT,
  devices TEXT,
  sweep_id TEXT,
  sweep_params TEXT, -- JSON
  gist_id TEXT,
  gist_revision TEXT,
  gist_sha256 TEXT,
  artifact_paths TEXT, -- JSON: type to path
  config TEXT NOT NULL -- JSON: the resolved spec
);
CREATE INDEX runs_by_time ON runs (created_at);
CREATE INDEX runs_by_sweep ON runs (sweep_id);

CREATE TABLE metrics (
  metric_id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
  split TEXT,
  metric_name TEXT NOT NULL,
  value REAL, -- NULL: not a finite number
  step INTEGER, -- NULL: of an epoch, or of the run
  epoch INTEGER, -- NULL: of the run
  timestamp TEXT NOT NULL
);
-- With the value, so that the best one of a run is found without reading the rows.
CREATE INDEX metrics_by_run ON metrics (run_id, metric_name, value);

CREATE TABLE artifacts (
  artifact_id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
  artifact_type TEXT NOT NULL,
  filepath TEXT NOT NULL,
  metadata TEXT NOT NULL DEFAULT '{}', -- JSON
  created_at TEXT NOT NULL
);
CREATE INDEX artifacts_by_run ON artifacts (run_id);

CREATE TABLE comparisons (
  comparison_id INTEGER PRIMARY KEY,
  baseline_run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
  candidate_run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
  created_at TEXT NOT NULL,
  notes TEXT NOT NULL DEFAULT ''
);
