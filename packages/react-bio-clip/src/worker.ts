/** The script of a worker for `loadInWorker`: a worker only has to import it. */

import {serve} from './core/worker-server.js';
import type {Port} from './core/worker-protocol.js';

serve(globalThis as unknown as Port);
