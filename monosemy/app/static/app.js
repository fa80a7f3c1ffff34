// A page at an address of its own.

import { startFrame, startPage } from "./start.js";

startFrame();
startPage();
