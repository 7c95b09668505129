/** Peak memory of a process. */

import {readFileSync} from 'node:fs';

/** Peak memory in bytes; null without /proc. (getrusage includes the peak of the parent process.) */
export function peakOf(pid) {
  try {
    return 1024 * Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
  } catch {
    return null;
  }
}
