#!/bin/sh
# One night: ask upstream what moved, build and verify what that reaches, keep what came of it.
#
#   nightly.sh [VARIANT...]        without a name: the pipeline's default variant
#
# The systemd units and the workflow beside this file run it. It prints one line for each variant,
# and the story to stderr. It ends as vaultbuild does: 0 done or nothing to do, 1 a build or a check
# failed, 2 a file of the project is wrong, 3 this host lacks something, 130 interrupted. Of several
# variants the worst counts. docs/nightly.md says more.
set -u

VAULTBUILD_PROJECT=${VAULTBUILD_PROJECT:-$PWD}
export VAULTBUILD_PROJECT
results=${NIGHTLY_RESULTS:-$VAULTBUILD_PROJECT/cache/var/nightly} # a folder for each night
nights_kept=${NIGHTLY_NIGHTS:-30}                                 # of each variant
images_kept=${NIGHTLY_IMAGES:-3}                                  # of each stage of each variant
cache_age=${NIGHTLY_CACHE_AGE:-90d}                               # unused for so long: goes
# What the plan was told of upstream is what the build goes by.
answer_age=6h

child=
stopped=
worst=0
built=

# `fail STATUS TEXT`: the end, before anything was done.
fail() {
    printf 'nightly: %s\n' "$2" >&2
    exit "$1"
}

# vaultbuild has a session of its own, so that a signal reaches it once, from here: a second one
# would kill what it is about to stop in good order.
stop() {
    stopped=yes
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}

# `run LOG WORDS...`: run vaultbuild, stderr to LOG and to ours; sets `status`.
run() {
    log=$1
    shift
    status=130
    [ -z "$stopped" ] || return
    : >"$folder/$log"
    setsid "$vaultbuild" "$@" 2>"$folder/$log" &
    child=$!
    # A signal that came since must not be lost.
    [ -z "$stopped" ] || stop
    # Not a pipe: a server that outlives its run would hold the other end.
    tail -n +1 -s 0.2 -f --pid="$child" "$folder/$log" >&2 &
    story=$!
    wait "$child"
    status=$?
    while [ "$status" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
        wait "$child"
        status=$?
    done
    child=
    wait "$story"
    as_vaultbuild
}

# Turn what a shell says of a program's end into what vaultbuild would say.
as_vaultbuild() {
    if [ -n "$stopped" ]; then
        status=130
    elif [ "$status" -eq 126 ] || [ "$status" -eq 127 ]; then
        status=3
    elif [ "$status" -gt 128 ] && [ "$status" -ne 130 ]; then
        printf 'nightly: vaultbuild was killed by signal %s\n' $((status - 128)) >&2
        status=1
    fi
}

# `night VARIANT`: the whole night of one variant; sets `status`.
night() {
    variant=$1
    nights=$results/${variant:-default}
    started=$(date -u +%Y%m%dT%H%M%SZ)
    folder=$nights/$started-$$
    mkdir -p "$folder" || fail 3 "$folder cannot be made: results would be lost"
    ln -sfn "${folder##*/}" "$nights/latest"
    if [ -n "$variant" ]; then set -- --variant "$variant"; else set --; fi
    step=plan
    run plan.log plan --refresh --detailed-exitcode --json "$@" >"$folder/plan.json"
    case $status in
        0) idle "$@" ;;
        4) work "$@" ;;
        *) failed ;;
    esac
    keep_results
}

# The plan finds no work. A check that failed is none, and neither is a release that was not made:
# what a night began, another has to end.
idle() {
    if [ -e "$nights/unfinished" ]; then
        work "$@"
        return
    fi
    explain "$@"
    outcome=nothing
    told="nothing to build$asked"
    [ "$status" -eq 0 ] || failed
}

work() {
    explain "$@"
    [ "$status" -eq 0 ] || { failed; return; }
    step=build
    built=yes
    printf '%s\n' "${folder##*/}" >"$nights/unfinished"
    run build.log build --refresh --max-age "$answer_age" --json --events "$folder/events.jsonl" \
        "$@" >"$folder/build.json"
    if [ "$status" -ne 0 ]; then
        failed
        checks_that_failed "$@"
        return
    fi
    step=verify
    run verify.log verify --json --junit "$folder/verify.xml" "$@" >"$folder/verify.json"
    [ "$status" -eq 0 ] || { failed; return; }
    rm -f "$nights/unfinished"
    outcome=built
    told="built and verified$asked"
}

# The same plan for people, from the same answer. `asked` is the line about upstream.
explain() {
    run plan.txt.log plan --refresh --max-age "$answer_age" "$@" >"$folder/plan.txt"
    rm -f "$folder/plan.txt.log"
    asked=$(sed -n 's/^upstream  *\(asked .*\)$/ (\1)/p' "$folder/plan.txt")
}

failed() {
    outcome=failed
    told="$step failed with status $status"
    [ "$status" -ne 130 ] || { outcome=interrupted told="interrupted during $step; run it again"; }
}

# When it is checks that a build failed for, have them in the form that machines of CI read.
checks_that_failed() {
    [ "$status" -ne 130 ] && [ -e "$folder/events.jsonl" ] || return
    stage=$(sed -n '/"event": "verdict"/{
        /"status": "failed"/s/.*"stage": "\([^"]*\)".*/\1/p
        }' "$folder/events.jsonl" | tail -n 1)
    # The checks of a release that was tried have no stage.
    { [ -n "$stage" ] && [ "$stage" != release ]; } || return
    kept=$status
    run verify.log verify --json --junit "$folder/verify.xml" "$stage" "$@" >"$folder/verify.json"
    status=$kept
}

keep_results() {
    name=${variant:-default variant}
    printf '{"schema": 1, "variant": "%s", "started": "%s", "ended": "%s", "outcome": "%s", ' \
        "$variant" "$started" "$(date -u +%Y%m%dT%H%M%SZ)" "$outcome" >"$folder/result.json"
    printf '"step": "%s", "exit_status": %s}\n' "$step" "$status" >>"$folder/result.json"
    summary >"$folder/summary.md"
    printf 'nightly: %s: %s; %s\n' "$name" "$told" "$folder"
    printf '%s\n' "$nights"/20*Z-* | sort -r | tail -n +$((nights_kept + 1)) |
        while IFS= read -r old; do rm -rf "$old"; done
}

# What a person reads first, as Markdown.
summary() {
    printf '## %s: %s\n' "$name" "$told"
    for file in plan.txt plan.log build.log verify.log; do
        [ -s "$folder/$file" ] || continue
        # Four backquotes: a log may have three.
        printf '\n%s, the last lines:\n\n````text\n' "$file"
        tail -n 40 "$folder/$file"
        printf '````\n'
    done
}

# A night that failed needs it most: a full disk is why nights fail.
prune() {
    folder=$results
    run prune.log cache prune --keep "$images_kept" >"$folder/prune.txt"
    [ "$status" -ne 0 ] || run prune.log cache prune apt pypi wheels isos models \
        --older-than "$cache_age" >>"$folder/prune.txt"
    [ "$status" -eq 0 ] || printf 'nightly: cache prune failed with status %s\n' "$status" >&2
}

vaultbuild=${VAULTBUILD:-$VAULTBUILD_PROJECT/.venv/bin/vaultbuild}
[ -x "$vaultbuild" ] || vaultbuild=$(command -v vaultbuild) ||
    fail 3 "there is no vaultbuild in $VAULTBUILD_PROJECT/.venv and none on PATH"
case $nights_kept in '' | 0 | *[!0-9]*) fail 2 "NIGHTLY_NIGHTS must be a number above 0" ;; esac
for variant in "$@"; do
    case $variant in
        '' | [!a-z0-9]* | *[!a-z0-9._-]*) fail 2 "no variant is named \"$variant\"" ;;
    esac
done

trap stop INT TERM HUP
[ $# -gt 0 ] || set -- ''
for each in "$@"; do
    night "$each"
    [ "$status" -le "$worst" ] || worst=$status
    [ "$status" -ne 130 ] || break
done
[ -z "$built" ] || [ "$worst" -eq 130 ] || prune
exit "$worst"
