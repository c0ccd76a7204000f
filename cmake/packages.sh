#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# packages.sh NAME...: makes sure that Debian or Ubuntu packages are there. As root or with sudo it
# installs them; otherwise it prints exactly what is missing and fails. On other systems it does
# nothing: CMake fetches the libraries.
set -eu
command -v dpkg-query >/dev/null 2>&1 || exit 0
missing=""
for name in "$@"; do
  dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q "install ok installed" ||
    missing="$missing $name"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then
  run=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  run="sudo"
else
  echo "missing packages:$missing" >&2
  echo "install them with: apt-get install -y --no-install-recommends$missing" >&2
  exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -q >/dev/null
# shellcheck disable=SC2086
$run apt-get install -y -q --no-install-recommends $missing >/dev/null
