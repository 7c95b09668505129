/** What expo.ts uses of modules that only a React Native project has: the application installs them. */

declare module 'expo-asset' {
  export class Asset {
    static fromModule(id: number | string): Asset;
    downloadAsync(): Promise<Asset>;
    name: string;
    localUri: string | null;
  }
}
