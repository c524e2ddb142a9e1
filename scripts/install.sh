#!/bin/sh
# Installs epicker into a folder of your choice: ./install.sh FOLDER makes FOLDER/bin/epicker, the wrappers beside it; docs,
# licences and weights in FOLDER/share/epicker; man pages, completions of shells and a module file in the places below
# FOLDER/share where they are looked for. It needs neither a network nor root; a second run replaces what the first one
# installed. The folder can be moved afterwards.
set -eu
if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
    echo "usage: $0 FOLDER (for example \$HOME/.local, or /opt/epicker)" >&2
    exit 2
fi
to=$1
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)

(cd "$here" && sha256sum --quiet --check SHA256SUMS) || {
    echo "$here: files are damaged or missing; unpack the archive again" >&2
    exit 1
}
"$here/bin/epicker" --version >/dev/null || {
    echo "$here/bin/epicker does not run here; it is for Linux on x86-64 with glibc 2.17 or later" >&2
    exit 1
}

mkdir -p "$to/bin" "$to/share/epicker"
for program in epicker epicker.sh epicker_train.sh; do
    # The copy gets a new name first, so that a program that is running now keeps its own file.
    cp "$here/bin/$program" "$to/bin/$program.new.$$"
    chmod 755 "$to/bin/$program.new.$$"
    mv -f "$to/bin/$program.new.$$" "$to/bin/$program"
done
for part in docs examples weights README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT THIRD-PARTY-LICENSES.txt epicker.cdx.json; do
    if [ -e "$here/$part" ]; then
        rm -rf "$to/share/epicker/$part"
        cp -R "$here/$part" "$to/share/epicker/$part"
    fi
done
# Other programs have files in these folders, too, so only those of this program are replaced.
rm -f "$to"/share/man/man1/epicker.1 "$to"/share/man/man1/epicker-*.1
for file in man/man1 bash-completion/completions zsh/site-functions fish/vendor_completions.d modulefiles/epicker; do
    if [ -d "$here/share/$file" ]; then
        mkdir -p "$to/share/$file"
        cp "$here/share/$file"/* "$to/share/$file/"
    fi
done
echo "installed $("$to/bin/epicker" -V) in $to"
case ":$PATH:" in
    *":$to/bin:"*) ;;
    *) echo "add it to the PATH: export PATH=\"$to/bin:\$PATH\"" ;;
esac
