"""Documents: from the bytes of a push to typed sections, or every problem at once.

`document.document.parse` is the way in. This file stays empty of imports, because services
build on the types here and the document is assembled from the services.
"""
