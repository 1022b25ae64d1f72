# Runs one job on a device: sh supervise.sh LEASE COMMAND…, in the job's folder, with the job in job.json.
# It writes the harness's records to records.jsonl. Whoever follows writes something new to the file lease every other second; when nobody
# has for LEASE seconds, or there is a file stop, the harness is ended and the folder removed. Only what POSIX, busybox and Android's
# mksh and toybox have.
lease=$1
shift
mkdir started 2>/dev/null || exit 0 # a second start of one job, by a host whose connection broke during the first
echo $$ >supervisor
group=
command -v setsid >/dev/null 2>&1 && group=setsid

work() {
  $group sh -c 'echo $$ >pid; exec "$@"' sh "$@" >>records.jsonl 2>log
  code=$?
  rm -f pid
  tail -c 4000 log >last
  printf '\n{"kind": "end", "code": %d}\n' "$code" >>records.jsonl
}

# Its output is the harness's input: it ends with whoever watches it, however that ends.
watch() {
  cat job.json &
  idle=0
  seen=
  while [ -e started ] && [ ! -e stop ] && [ "$idle" -lt "$lease" ]; do
    idle=$((idle + 1))
    if read -r now 2>/dev/null <lease && [ "$now" != "$seen" ]; then
      seen=$now
      idle=0
    fi
    sleep 1
  done
  if [ -e pid ]; then
    read -r pid <pid
    kill -9 -"$pid" 2>/dev/null || kill -9 "$pid"
  fi
  for follower in follower.*; do # those whose connection broke without their hearing of it
    [ ! -e "$follower" ] || kill "${follower#follower.}" "$(cat "$follower")"
  done
}

watch | work "$@"
here=$(pwd)
cd / && rm -rf "$here"
