#!/bin/sh
# Keeps a virtual machine under power, as a Pi is: when it reboots, halts or is cut off, it starts again.
# usage: power.sh QEMU [OPTION ...]    in the machine's folder; a file `off` there ends it
set -eu
exec </dev/null >power.log 2>&1
echo $$ >supply
while [ ! -e off ]; do
  # What the firmware of a Pi does: the kernel is told what cmdline.txt says. The last root= counts.
  "$@" -pidfile pid -append "$(mtype -i boot.img ::cmdline.txt | tr -d '\r\n') root=/dev/vda console=$CONSOLE" || sleep 1
done
