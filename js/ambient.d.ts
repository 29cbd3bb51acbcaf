declare module "*.css";
declare const __IW_VERSION__: string;
