# What docker-compose fails to build where an image is missing, instead of pulling one of its name.
FROM scratch
COPY run-make-images-first /
