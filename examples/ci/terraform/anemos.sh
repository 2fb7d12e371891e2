#!/bin/sh
# Deploys one host unless it is what a deployment would make of it, and prints how it ended.
# usage: anemos.sh HOSTS.TOML HOST
set -u
anemos=${ANEMOS:-anemos}

"$anemos" plan --json --detailed-exitcode "$1" "$2" > /dev/null
case $? in
0) echo "$2: nothing to do"; exit 0 ;;
5) ;;
*) echo "$2: it can't be deployed; anemos plan $1 $2 says why" >&2; exit 1 ;;
esac

# The last line that says how the host ended. A pipe has the status of its last command, so a file takes the lines.
lines=$(mktemp) || exit 1
trap 'rm -f "$lines"' EXIT
# A new system may have host keys of its own, which the next plan has to know.
"$anemos" up --yes --json --update-known-hosts "$1" "$2" > "$lines"
status=$?
grep '"type":"summary"' "$lines"
exit $status
