#!/usr/bin/env bash
# From a fresh clone to an answer: packages, build, model, and 4 ranks that answer a question.
#   bash jobs/quickstart.sh [QUESTION]     MODEL=file.gguf takes another model
source "$(dirname "$0")/setup.sh"
need_packages "${build_packages[@]}"
build_jupiter -DBUILD_TESTING=OFF
prepare_model
question=${1:-"What are the benefits of regular exercise?"}
echo "4 ranks, question: $question"
"$root/jobs/jupiter-run" -n 4 run -m "$model_folder" -p "$question" -n 200
