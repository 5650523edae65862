(() => {
  // In Airflow's frame: follow its theme, and open links to Airflow in the outer window, which the frame itself may not.
  if (parent === window) return;
  let outer;
  try { outer = parent.document; } catch { return; }
  const follow = () => {
    document.documentElement.style.colorScheme = outer.documentElement.classList.contains("dark") ? "dark" : "light";
  };
  follow();
  new MutationObserver(follow).observe(outer.documentElement, { attributes: true, attributeFilter: ["class"] });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.airflow");
    if (!link) return;
    event.preventDefault();
    const twin = outer.createElement("a");
    twin.href = link.href;
    outer.body.append(twin);
    twin.click();
    twin.remove();
  });
})();
