# Runs one job on a device: sh supervise.sh LEASE COMMAND…, in the job's folder, with the job in job.json.
# It writes the harness's records to records.jsonl, and ends the harness and removes the folder when nobody has renewed the lease (made
# the file of that name) for LEASE seconds. Only what POSIX, busybox and Android's toybox have.
lease=$1
shift
"$@" <job.json >records.jsonl 2>log &
harness=$!
idle=0
while kill -0 "$harness" 2>/dev/null; do
  if [ -e lease ]; then
    rm -f lease
    idle=0
  else
    idle=$((idle + 1))
  fi
  if [ "$idle" -gt "$lease" ] || [ -e stop ]; then
    kill -9 "$harness" 2>/dev/null
    wait "$harness" 2>/dev/null
    here=$(pwd)
    cd / && rm -rf "$here"
    exit 1
  fi
  sleep 1
done
wait "$harness"
code=$?
tail -c 4000 log >last
printf '\n{"kind": "end", "code": %d}\n' "$code" >>records.jsonl
# The host fetches the end; where it does not come back for it, the folder is removed all the same.
while [ "$idle" -le "$lease" ] && [ ! -e stop ]; do
  if [ -e lease ]; then
    rm -f lease
    idle=0
  fi
  idle=$((idle + 1))
  sleep 1
done
here=$(pwd)
cd / && rm -rf "$here"
