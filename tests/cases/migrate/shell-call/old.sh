#!/bin/sh
# The long run; it took a night with --epochs 50.
./train_all.sh --vocab-size 8000 --epochs=30 \
  --learning-rate 1e-4 --output-dir "./data" --skip-corpus # the corpus is there
