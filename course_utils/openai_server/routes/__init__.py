"""The routes of the hosted API, one module a resource."""
