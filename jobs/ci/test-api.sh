#!/usr/bin/env bash
# Suites of others against the server's API, on SmolLM2: bash jobs/ci/test-api.sh [--full] [options of pytest]
# The Python client of OpenAI, and schemathesis for a short while; about 90 seconds on two cores. With --full also all
# of schemathesis and LangChain's standard suite, about ten minutes. tests/api/README.md has more.
#   BUILD_API   folder of the virtual environment (default build-api)
source "$(dirname "$0")/../setup.sh"
need_packages "${build_packages[@]}" python3-venv
environment=${BUILD_API:-$root/build-api}
[ -x "$BUILD/jupiter" ] || build_jupiter -DBUILD_TESTING=OFF
prepare_model
wanted=$root/tests/api/requirements.txt
if ! cmp -s "$wanted" "$environment/installed.txt"; then
  python3 -m venv --clear "$environment"
  "$environment/bin/pip" install -q --disable-pip-version-check -r "$wanted"
  cp "$wanted" "$environment/installed.txt"
fi
cd "$root/tests/api"
export JUPITER=${JUPITER:-$BUILD/jupiter} PYTHONDONTWRITEBYTECODE=1
exec "$environment/bin/python" -m pytest -q -rsx --durations=4 "$@"
