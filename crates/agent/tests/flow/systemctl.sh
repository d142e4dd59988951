#!/bin/sh
# A systemctl whose units are files beside it. `kill-at` holds the number of the call at which it kills the agent
# instead of doing anything, as a power cut would. With `short-lived` a unit is active for one look only.
dir=$(dirname "$0")
echo "$*" >> "$dir/calls"
if [ -f "$dir/kill-at" ] && [ "$(wc -l < "$dir/calls")" -eq "$(cat "$dir/kill-at")" ]; then
  rm "$dir/kill-at"
  kill -9 $PPID
  exit 1
fi
case "$1" in
  cat) test -f "$dir/known" ;;
  is-active)
    if [ -f "$dir/active" ]; then echo active; else echo failed; exit 3; fi
    if [ -f "$dir/short-lived" ]; then rm "$dir/active"; fi ;;
  restart)
    if [ -f "$dir/broken" ]; then echo "Job for kubelet.service failed." >&2; exit 1; fi
    touch "$dir/active" ;;
  status)
    printf 'x kubelet.service\n   Active: failed\n\nE1121 no runtime; Bearer %s\n' "$(cat "$dir/../token")" ;;
esac
