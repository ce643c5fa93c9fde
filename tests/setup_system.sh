#!/bin/sh
# Installs the system packages that tests use, where it can, and says what it found, installed or could not.
set -u
missing=""
command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1 || missing="chromium chromium-driver"
if [ -z "$missing" ]; then
  echo "system packages: chromium found"
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "system packages: installing $missing"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1 \
    || echo "system packages: could not install $missing; tests that need a browser will be skipped and say so"
else
  echo "system packages: $missing missing; to run every test: sudo apt-get install $missing"
fi
