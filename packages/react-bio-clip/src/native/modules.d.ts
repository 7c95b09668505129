/** Declarations for expo.ts of modules that the application installs: only React Native projects have them. */

declare module 'expo-asset' {
  export class Asset {
    static fromModule(id: number | string): Asset;
    downloadAsync(): Promise<Asset>;
    name: string;
    localUri: string | null;
  }
}
