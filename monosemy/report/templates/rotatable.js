// Draws the figure in #figure, whose frames the slider shows.
const figure = JSON.parse(document.getElementById("figure").textContent);
const settings = { displaylogo: false, responsive: true };
Plotly.newPlot("space", figure.data, figure.layout, settings).then((space) => Plotly.addFrames(space, figure.frames));
