"""Data: endpoints that hold objects (a folder or S3) and what our Butlers have in common.

Reading order: errors, endpoint (the contract), folder, s3, butler.
"""
