# Runs one function of the IMGBUILD that is $0. It is called by itself, so `set -e` holds inside it.
set -e
. "$0"
"$MAKEIMG_FUNCTION"
