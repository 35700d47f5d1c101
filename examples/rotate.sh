#!/bin/sh
#
# rotate.sh: replaces a lock key by a new one, on the cluster and on disk.
#
#     rotate.sh [--finish] KEY-ID-OR-NAME KEY-FILE
#
# KEY-ID-OR-NAME  the key in the cluster's key store, by its id or its name
# KEY-FILE        the file with its private half; run this as the user who owns the file
#
# Afterwards KEY-FILE is the new private key, the cluster holds its public half under the same id
# and name, and whatever the old key locked, the new one unlocks. The old private key stays too.
#
# Where each key is
#     KEY-FILE                    the key in use: the old one first, the new one at the end
#     KEY-FILE.new                the new key, from the moment it is made until the last step
#     KEY-FILE.old-FINGERPRINT    an old key; nothing here ever deletes one
#
# At each moment the key that the cluster holds is KEY-FILE or, between the replacement and the last
# step, KEY-FILE.new. A job that must be able to unlock at any time names both:
#     qkey unlock --id=7 --key=KEY-FILE --key=KEY-FILE.new
#
# When it fails, is killed, or the machine loses power: run it again. It continues where the last
# run was cut short, and a KEY-FILE.new is how it knows that one was. Without one it begins a new
# rotation; with --finish it does not, and only checks that KEY-FILE is what the cluster holds. So
# --finish is for whoever cannot tell whether the last run came to its end.
#
# Exit code: qkey's own (0 done; 4 KEY-FILE is not the key that the cluster holds; 7 the cluster
# cannot be reached; 8 nobody can tell whether the key was replaced; the others in `qkey --help`).
# Of this script alone: 1 the files cannot be arranged; 2 wrong arguments; 3 there is no KEY-FILE.
#
# Environment
#     QKEY_HOST, QKEY_QQ, …   which cluster, which qq; or the configuration file (`qkey config show`)
#     ROTATE_ATTRIBUTES       for encrypted key files, how qkey gets the passphrase, for example
#                             passphrase-file=/etc/qkey/passphrase; the new file is encrypted too

set -eu

say() {
    printf 'rotate.sh: %s\n' "$*" >&2
}

die() {
    code=$1
    shift
    say "$*"
    exit "$code"
}

finish=
if [ "${1-}" = --finish ]; then
    finish=yes
    shift
fi
[ $# -eq 2 ] || die 2 'usage: rotate.sh [--finish] KEY-ID-OR-NAME KEY-FILE'
key=$1
file=$2

# A plain path, however it begins, and nothing that qkey would read as a URI or as attributes.
case $file in
    *\?*) die 2 "$file: a file name with a question mark is not supported" ;;
    /*) ;;
    *) file=./$file ;;
esac
# The last step would put a file in place of a link, and leave what it points to as it is.
[ ! -L "$file" ] || die 2 "$file is a symbolic link: name the file itself"
[ ! -d "$file" ] || die 2 "$file is a directory: name the key file in it"

new=$file.new
attributes=${ROTATE_ATTRIBUTES:+?$ROTATE_ATTRIBUTES}

# One rotation at a time in a folder, where flock(1) is there to see to it; the lock ends with this
# script, however that ends.
if command -v flock >/dev/null; then
    exec 9<"${file%/*}/"
    flock -n 9 || die 1 "another rotation is at work in ${file%/*}/"
fi

# qkey itself, without the lock.
qkey() {
    command qkey "$@" 9<&-
}

# held FILE: ends this script with qkey's error unless FILE is the key that the cluster holds. A key
# that takes its own place is either there already, or refused (exit code 4) before anything is sent.
held() {
    qkey replace --key-id="$key" --old-key="$1$attributes" --new-key="$1$attributes" >/dev/null
}

# fingerprint FILE: the SHA-256 of the key's public half, as `qkey keys show` has it, but fit for a
# file name.
fingerprint() {
    json=$(qkey --output=json pubkey "$1$attributes")
    printf '%s\n' "$json" | sed -n 's/.*"fingerprint":"SHA256:\([^"]*\)".*/\1/p' | tr '/+' '_-'
}

# Step 1: the new private key is on disk before the cluster hears of it. It is made only where the
# old one is the right one, so that a mistyped name leaves nothing behind.
if [ -e "$new" ]; then
    say "continuing with $new"
else
    [ -e "$file" ] || die 3 "there is no key file $file"
    held "$file"
    if [ -n "$finish" ]; then
        say "nothing to finish: the cluster holds $file"
        exit
    fi
    qkey generate "$new$attributes" >/dev/null
fi

# Step 2: both keys sign, and the cluster takes the new one in place of the old one. Where it holds
# the new one already, because the last run came this far, this says so and sends nothing.
qkey replace --key-id="$key" --old-key="$file$attributes" --new-key="$new$attributes"

# Step 3: believe no answer; look at what the cluster holds now.
held "$new"

# Step 4: a second name for the old key (a hard link: it is there whole, or not at all). It is there
# already when the last run came this far.
archive=
if [ -e "$file" ]; then
    archive=$(fingerprint "$file")
    [ -n "$archive" ] || die 1 "qkey pubkey shows no fingerprint of $file"
    archive=$file.old-$archive
    if ! cmp -s "$file" "$archive"; then
        ln "$file" "$archive" ||
            die 1 "the cluster holds $new now; copy $file to $archive yourself, then run this again"
    fi
fi

# Step 5: the new key takes the name of the one in use, in one stroke.
mv -f "$new" "$file"

say "done: the cluster holds $file${archive:+; the old key is $archive}"
