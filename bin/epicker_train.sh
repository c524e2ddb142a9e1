#!/bin/sh
# Trains, under the name and with the options that callers of EPicker know: epicker_train.sh OPTIONS = epicker train --guide OPTIONS.
# Options that are not given are as in EPicker's guide: a new network of full width if no model is loaded, 140 epochs, rate 1e-4.
# Arguments and environment are passed on as they are; paths with blanks work.
self=$0
while [ -L "$self" ]; do
    target=$(readlink -- "$self")
    case $target in
        /*) self=$target ;;
        *) self=$(dirname -- "$self")/$target ;;
    esac
done
# Without any option the program prints its help.
[ $# -eq 0 ] || set -- --guide "$@"
here=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd -P) || exit 1
# Beside this script where it is installed, in the build folder where it was cloned, else wherever PATH finds it.
for program in "$here/epicker" "$here/../target/release/epicker"; do
    if [ -f "$program" ] && [ -x "$program" ]; then
        exec "$program" train "$@"
    fi
done
exec epicker train "$@"
