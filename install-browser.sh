#!/bin/sh
# install-browser.sh: Chromium and its driver, for the tests of reports; where this may not install them, how to.
set -eu
if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "== installing chromium and chromium-driver"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        chromium chromium-driver >/dev/null
else
    echo "== tests of reports in a browser are skipped: sudo apt-get install chromium chromium-driver" >&2
fi
