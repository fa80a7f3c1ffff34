// On a page that is made of a result: "Copy as Python", the program for which stands in the page; and examples in a table,
// whose blanks, line ends and marks of direction are shown as everywhere.

import { byId, dataOf } from "./dom.js";
import { copyButton } from "./panel.js";
import { visible } from "./tokens.js";

byId("tools")?.append(copyButton(dataOf("python-data")));
for (const text of document.querySelectorAll(".example-text bdi")) text.replaceChildren(...visible(text.textContent));
