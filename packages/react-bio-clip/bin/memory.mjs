/** How much memory a process has had. */

import {readFileSync} from 'node:fs';

/** The most, in bytes; null where no /proc says so. (What getrusage says includes that of whoever started it.) */
export function peakOf(pid) {
  try {
    return 1024 * Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
  } catch {
    return null;
  }
}
