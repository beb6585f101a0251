-- How a run was executed: on what code, where, and how it ended. Runs that a script has logged have no such row.
CREATE TABLE executions (
  run_id TEXT PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
  origin TEXT NOT NULL CHECK (origin IN ('foundry run', 'git')),
  toolkit_version TEXT NOT NULL,
  finished_at TEXT, -- NULL: not yet, or not known
  seconds REAL,
  exit_code INTEGER,
  message TEXT NOT NULL DEFAULT '', -- what went wrong
  spec_hash TEXT,
  training_run_id TEXT, -- the identity that reports/training_metrics.json gives the training
  git_commit TEXT,
  git_dirty INTEGER,
  environment TEXT NOT NULL DEFAULT '{}', -- JSON
  git_diff TEXT NOT NULL DEFAULT ''
);
CREATE INDEX executions_by_training ON executions (training_run_id);

CREATE TABLE stages (
  run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
  stage TEXT NOT NULL,
  outcome TEXT NOT NULL CHECK (outcome IN ('built', 'restored', 'unchanged', 'failed', 'not reached')),
  seconds REAL, -- NULL: it did not run
  exit_code INTEGER,
  PRIMARY KEY (run_id, stage)
);
