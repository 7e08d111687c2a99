"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures-data");
  const episode = read("episode-data");
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "sendChartToCloud"],
    // Plotly would offer to upload what is drawn
    showSendToCloud: false,
    plotlyServerURL: "",
  };
  const plot = (name) => document.getElementById(`plot-${name}`);
  const drawn = Object.keys(figures).map((name) => Plotly.newPlot(plot(name), figures[name].data, figures[name].layout, config));

  const slider = document.getElementById("step");
  const shown = document.getElementById("shown-step");
  const button = document.getElementById("play");
  const picture = document.getElementById("picture");
  const values = [...document.querySelectorAll(".values dd")];
  const pictured = Object.keys(episode.pictures).map(Number).sort((a, b) => a - b);
  const portrait = figures.portrait.data;
  const path = portrait.find((trace) => trace.meta === episode.path);
  const point = portrait.findIndex((trace) => trace.meta === episode.current);
  let isWaiting = false;

  const tell = (step) => {
    shown.textContent = `${step} of ${slider.max}`;
    slider.setAttribute("aria-valuetext", `step ${step} of ${slider.max}`);
    values.forEach((cell, i) => { cell.textContent = episode.values[i][step]; });
    if (picture !== null) {
      picture.src = episode.pictures[pictured.filter((at) => at <= step).pop()];
    }
  };
  const mark = () => {
    isWaiting = false;
    const step = Number(slider.value);
    const moved = {};
    figures.episode.layout.shapes.forEach((_, i) => { moved[`shapes[${i}].x0`] = moved[`shapes[${i}].x1`] = step; });
    Plotly.relayout(plot("episode"), moved);
    Plotly.restyle(plot("portrait"), { x: [[path.x[step]]], y: [[path.y[step]]] }, [point]);
  };
  const show = () => {
    tell(Number(slider.value));
    // At most once for each picture of the screen
    if (!isWaiting) {
      isWaiting = true;
      requestAnimationFrame(mark);
    }
  };
  const go = (step) => {
    slider.value = step;
    show();
  };

  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };
  button.addEventListener("click", () => {
    if (timer !== null) {
      stop();
      return;
    }
    if (slider.value === slider.max) {
      go(0);
    }
    button.textContent = "Pause";
    timer = setInterval(() => {
      go(Number(slider.value) + 1);
      if (slider.value === slider.max) {
        stop();
      }
    }, 120);
  });
  slider.addEventListener("input", show);
  document.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    // The slider listens to its keys itself
    if (direction !== undefined && event.target === document.body && !event.ctrlKey && !event.altKey && !event.metaKey) {
      event.preventDefault();
      go(Number(slider.value) + direction);
    }
  });
  Promise.all(drawn).then(() => {
    plot("episode").on("plotly_click", (event) => go(event.points[0].x));
    show();
    document.documentElement.dataset.ready = "true";
  });
})();
