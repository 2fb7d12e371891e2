# Runs one function of the IMGBUILD that is $0. It is called by itself, so `set -e` holds inside it. If somebody wants another
# format than the IMGBUILD says, that is what it finds.
set -e
. "$0"
[ -z "$MAKEIMG_FORMAT" ] || format=$MAKEIMG_FORMAT
"$MAKEIMG_FUNCTION"
