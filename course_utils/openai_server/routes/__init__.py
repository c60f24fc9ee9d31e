"""The routes of the hosted API, one module per resource."""
