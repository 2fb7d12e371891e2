# Reads the IMGBUILD that is $0: what there was before, and then its variables, functions and what else it leaves in a
# shell go to standard output, as `shell.rs` describes.
exec 9>&1 1>&2
# A value may look like a line of `set`: what it names is then told twice, or not at all if it is not set.
_makeimg_tell() {
    set | while IFS= read -r _makeimg_line; do
        _makeimg_name=${_makeimg_line%%=*}
        case $_makeimg_name in "$_makeimg_line" | '' | [0-9]* | *[!A-Za-z0-9_]* | _makeimg_*) continue ;; esac
        eval "[ \"\${$_makeimg_name+set}\" ]" || continue
        eval "command printf '%s%s=%s\\0' \"\$1\" $_makeimg_name \"\$$_makeimg_name\" >&9"
    done
}
_makeimg_tell B
set -e
. "$0"
_makeimg_options=$-
set +eu
command printf 'O%s\0' "$_makeimg_options" >&9
command printf 'U%s\0' "$(umask)" >&9
_makeimg_tell V
export -p | while IFS=' =' read -r _makeimg_word _makeimg_name _makeimg_rest; do
    [ "$_makeimg_word" != export ] || command printf 'E%s\0' "$_makeimg_name" >&9
done
IFS=' '
for _makeimg in $MAKEIMG_FUNCTIONS; do
    if (PATH=/nonexistent && command -v "$_makeimg") >/dev/null 2>&1; then command printf 'F%s\0' "$_makeimg" >&9; fi
done
command printf 'S\0' >&9
