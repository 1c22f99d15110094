"""What a container takes from secrets and config maps: each environment variable and its key."""

MLFLOW_NAME = "tzrec-mlflow"
"""What the config map and the secret for MLflow are called unless a run names others."""
OBJECT_STORE_NAME = "tzrec-object-store"

# All of them are optional: an object or a key that is not there leaves its variable unset.
MLFLOW_CONFIG_MAP = {"MLFLOW_TRACKING_URI": "tracking_uri"}
MLFLOW_SECRET = {
    "MLFLOW_TRACKING_USERNAME": "username",
    "MLFLOW_TRACKING_PASSWORD": "password",
    "MLFLOW_TRACKING_TOKEN": "token",
}
OBJECT_STORE_SECRET = {
    "AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN": "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION": "region",
    "AWS_ENDPOINT_URL": "endpoint",
    "MLFLOW_S3_ENDPOINT_URL": "endpoint",
}
