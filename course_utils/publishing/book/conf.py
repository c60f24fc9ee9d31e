"""Sphinx's settings for the book; `building` says where it reads and writes."""

from course_utils import assets
from course_utils.publishing.book.building import HERE

project = "Teaching models new behaviours"
copyright = "the authors of the course, Apache-2.0"
language = "en"

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "course_utils.publishing.book.extension",
]

# Lessons. Outputs are those that are stored: nothing is run.
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_update_mathjax = False
myst_heading_anchors = 3
html_math_renderer = "mathml"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(HERE / "static")]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_favicon = str(HERE / "static" / "icon.svg")
templates_path = [str(HERE / "sphinx_templates")]
html_sidebars = {"**": ["book-logo.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
html_show_sourcelink = False
html_show_sphinx = False
html_domain_indices = False
html_use_index = False
copybutton_exclude = ".linenos, .gp, .go"
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": project, "image_light": "_static/icon.svg", "image_dark": "_static/icon.svg", "alt_text": ""},
    "repository_url": assets.repository_url(),
    "repository_branch": "main",
    "use_repository_button": True,
    "use_fullscreen_button": False,
    "launch_buttons": {
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
        "notebook_interface": "jupyterlab",
    },
    "article_header_start": ["toggle-primary-sidebar.html", "book-home.html"],
    "footer_content_items": ["copyright.html"],
    "search_bar_text": "Search the course",
    "toc_title": "On this page",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
