import 'react';

declare module 'react' {
  interface InputHTMLAttributes<T> {
    /** Browsers then choose a folder; React's types lack it. */
    webkitdirectory?: '';
  }
}
