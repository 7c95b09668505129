/** The script of a worker that `loadInWorker` talks to: importing it is all a worker has to do. */

import {serve} from './core/worker-server.js';
import type {Port} from './core/worker-protocol.js';

serve(globalThis as unknown as Port);
