# Reads the IMGBUILD that is $0: its variables, functions and all names go to standard output, as `shell.rs` describes.
exec 9>&1 1>&2
set -e
. "$0"
set +eu
IFS=' '
for _makeimg in $MAKEIMG_VARIABLES; do
    eval "if [ \"\${$_makeimg+set}\" ]; then command printf 'V%s=%s\\0' \"\$_makeimg\" \"\$$_makeimg\" >&9; fi"
done
for _makeimg in $MAKEIMG_FUNCTIONS; do
    if (PATH=/nonexistent && command -v "$_makeimg") >/dev/null 2>&1; then command printf 'F%s\0' "$_makeimg" >&9; fi
done
command printf 'S\0' >&9
set >&9
