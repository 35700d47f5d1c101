#!/bin/sh
#
# rotate.sh: replaces a lock key with a new one, on the cluster and on disk.
#
#     rotate.sh [--finish] KEY-ID-OR-NAME KEY-FILE
#
# KEY-ID-OR-NAME  the key in the cluster's key store, by its id or its name
# KEY-FILE        the file with its private half; run this as the user who owns the file
#
# Afterwards KEY-FILE is the new private key, the cluster holds its public half under the same id
# and name, and the new key unlocks everything that the old one locked. The old private key is kept.
#
# Files
#     KEY-FILE                    the key in use: first the old one, at the end the new one
#     KEY-FILE.new                the new key, until the last step
#     KEY-FILE.old-FINGERPRINT    an old key; this script never deletes one
#
# At any moment the cluster holds KEY-FILE or, between the replacement and the last step, KEY-FILE.new.
# A job that must be able to unlock at any time names both:
#     qkey unlock --id=7 --key=KEY-FILE --key=KEY-FILE.new
#
# If it fails, is killed, or the machine loses power, run it again. If KEY-FILE.new exists, it resumes
# the last run; otherwise it starts a new rotation. With --finish it never starts one, and only checks
# that the cluster holds KEY-FILE: use that when you do not know whether the last run finished.
#
# Exit codes: those of qkey (0 done; 4 KEY-FILE does not match; 7 the cluster
# cannot be reached; 8 it is unknown whether the key was replaced; docs/json.md lists them all), and
# from this script: 1 the files cannot be arranged; 2 wrong arguments; 3 KEY-FILE does not exist.
#
# Environment
#     QKEY_HOST, QKEY_QQ, …   the cluster and its qq, if the configuration file does not say
#     ROTATE_ATTRIBUTES       for encrypted key files, where the passphrase comes from, for example
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

# Make it a plain path that qkey cannot take for a URI or attributes.
case $file in
    *\?*) die 2 "$file: a file name with a question mark is not supported" ;;
    /*) ;;
    *) file=./$file ;;
esac
# The last step would replace the link, not the file it points to.
[ ! -L "$file" ] || die 2 "$file is a symbolic link; name the file itself"
[ ! -d "$file" ] || die 2 "$file is a directory; name the key file in it"

new=$file.new
attributes=${ROTATE_ATTRIBUTES:+?$ROTATE_ATTRIBUTES}

# One rotation at a time in each folder, if flock(1) is available. The lock ends with this script.
if command -v flock >/dev/null; then
    exec 9<"${file%/*}/"
    flock -n 9 || die 1 "another rotation is running in ${file%/*}/"
fi

# qkey itself, without the lock.
qkey() {
    command qkey "$@" 9<&-
}

# held FILE: exits with qkey's error unless the cluster holds FILE. Replacing a key with itself is
# either already done, or refused (exit code 4) before anything is sent.
held() {
    qkey replace --key-id="$key" --old-key="$1$attributes" --new-key="$1$attributes" >/dev/null
}

# fingerprint FILE: the SHA-256 of the key's public half, as in `qkey keys show`, but safe in a file
# name.
fingerprint() {
    json=$(qkey --output=json pubkey "$1$attributes")
    printf '%s\n' "$json" | sed -n 's/.*"fingerprint":"SHA256:\([^"]*\)".*/\1/p' | tr '/+' '_-'
}

# Step 1: put the new private key on disk before the cluster hears of it. Check the old one first, so
# that a mistyped name leaves nothing behind.
if [ -e "$new" ]; then
    say "continuing with $new"
else
    [ -e "$file" ] || die 3 "$file does not exist"
    held "$file"
    if [ -n "$finish" ]; then
        say "nothing to finish: the cluster holds $file"
        exit
    fi
    qkey generate "$new$attributes" >/dev/null
fi

# Step 2: replace the key on the cluster. If the last run already did, this says so and sends nothing.
qkey replace --key-id="$key" --old-key="$file$attributes" --new-key="$new$attributes"

# Step 3: check what the cluster holds now.
held "$new"

# Step 4: give the old key a second name (a hard link, so it exists completely or not at all), unless
# the last run already did.
archive=
if [ -e "$file" ]; then
    archive=$(fingerprint "$file")
    [ -n "$archive" ] || die 1 "qkey pubkey printed no fingerprint of $file"
    archive=$file.old-$archive
    if ! cmp -s "$file" "$archive"; then
        ln "$file" "$archive" ||
            die 1 "the cluster now holds $new; copy $file to $archive yourself, then run this again"
    fi
fi

# Step 5: atomically rename the new key to the one in use.
mv -f "$new" "$file"

say "done: the cluster holds $file${archive:+; the old key is $archive}"
